"""Who is at work in a run folder: of those who start runs by hand, so that two do not train into one.

On a cluster the operator starts one driver after the other, and the number of the attempt fences them; nothing here is
used. A run that somebody starts says in the file that claims its attempt (`attempts/0002.json`) which process it is,
and renews it as long as it lives:

    {"attempt": 2, "startedAt": …, "host": "node-7",
     "process": {"pid": 123, "born": 456, "machine": …}, "machineId": …, "renewedAt": …, "endedAt": …}

Who wants to go on with the folder asks first. On the same machine the process is looked for, so that one that was
killed, or that a reboot ended, is in nobody's way. On another one, over a shared file system, its silence tells: clocks
differ, so what looks old, or is of the future, is looked at for longer than a renewal takes.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaling_training.clock import duration, utc
from scaling_training.errors import UserError
from scaling_training.formats import check_format
from scaling_training.ledger import Ledger, SupersededError, attempt_file, latest_attempt
from scaling_training.storage import Storage

log = logging.getLogger(__name__)

FORMAT = 1
RENEW_S = 10.0
# So long a run elsewhere may be silent and still be alive: its storage may hang for a while.
SILENCE_S = 180.0
LOOK_S = 2.5 * RENEW_S
# How long the end of a run waits for the word that it has ended, which storage may not take.
_LEAVE_S = 5.0


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, such that no later one is taken for it."""

    pid: int
    born: int | None  # in ticks of the machine's clock; None where nobody tells
    machine: str  # where the pid means this process: a boot of a machine, and a namespace of pids

    @classmethod
    def this(cls) -> Holder:
        """This process."""
        return cls(os.getpid(), _born(os.getpid()), _machine())

    @property
    def is_here(self) -> bool:
        """Whether this process could see it."""
        return self.machine == _machine()

    @property
    def is_alive(self) -> bool:
        """Whether it is still there; only to be asked of one that `is_here`."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # Another user's, of whom /proc may not tell (hidepid): it is there.
            if _born(self.pid) is None:
                return True
        return _born(self.pid) == self.born


class Lease:
    """Keeps this process's word in a run folder new, from `start` to `close`.

    ``about`` is what the file that claims the attempt must hold. ``superseded`` is told when a later attempt has begun:
    somebody took the folder over.
    """

    def __init__(self, storage: Storage, ledger: Ledger, superseded: Callable[[SupersededError], None]) -> None:
        self._storage = storage
        self._ledger = ledger
        self._superseded = superseded
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.about = {
            "format": FORMAT,
            "process": asdict(Holder.this()),
            "machineId": _machine_id(),
            "renewedAt": time.time(),
        }

    def start(self) -> None:
        """Begin to renew, once the attempt is claimed."""
        self._thread.start()

    def close(self) -> None:
        """Say that this run has ended; storage that does not take it is not waited for."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(_LEAVE_S)

    def _renew(self) -> None:
        name, ended = attempt_file(self._ledger.attempt), False
        while not ended:
            ended = self._over.wait(RENEW_S)
            try:
                self._ledger.check()
                said = json.loads(self._storage.read(name))
                said |= {"endedAt": utc()} if ended else {"renewedAt": time.time()}
                self._storage.write(name, json.dumps(said, indent=1).encode())
            except SupersededError as error:
                self._superseded(error)
                return
            except Exception as error:  # whatever a store raises: the next renewal is tried all the same
                log.debug("%s could not be renewed: %s", name, error)


def next_attempt(storage: Storage, *, force: bool = False, wait: Callable[[float], None] = time.sleep) -> int:
    """The number of the attempt that may begin in a run folder; UserError while another process is at work there.

    That is not asked with ``force``. ``wait`` is called with seconds when another machine has to be listened to.
    """
    latest = latest_attempt(storage)
    if latest and not force:
        _check_over(storage, latest, wait)
    return latest + 1


def _check_over(storage: Storage, attempt: int, wait: Callable[[float], None]) -> None:
    said = _said(storage, attempt)
    if "process" not in said or "endedAt" in said:
        return  # a cluster's attempt, or one that has ended
    holder = Holder(**said["process"])
    silent_s = time.time() - said["renewedAt"]
    seen = ""
    if holder.is_here:
        if not holder.is_alive:
            return
    elif _has_rebooted_since(said, holder):
        return
    else:
        # Either way more than what clocks that are set differ by: its age says nothing.
        if abs(silent_s) > SILENCE_S:
            wait(LOOK_S)
            now = _said(storage, attempt)
            if "endedAt" in now or now.get("renewedAt") == said["renewedAt"]:
                return
            silent_s = 0.0
        seen = (
            f", which was last heard of {duration(silent_s)} ago and counts as gone after {SILENCE_S:.0f} s of silence"
        )
    raise UserError(
        f"{storage.url()} is in use by process {holder.pid} on {said['host']} since {said['startedAt']}{seen}: stop "
        "that first (Ctrl-C, or SIGTERM, saves a checkpoint), or give --force if it is certain that it no longer works"
    )


def _has_rebooted_since(said: Mapping[str, Any], holder: Holder) -> bool:
    """Whether the holder's machine is this one, and was started after the holder's last word: nothing outlives that.

    Name and id may both be copies, of a machine's image. Of two such machines that are up at once, the other one goes
    on to be heard of after this one was started.
    """
    name, machine_id, boot = platform.node(), _machine_id(), _boot()
    if boot is None or not machine_id or (said["host"], said.get("machineId")) != (name, machine_id):
        return False
    if holder.machine.partition(" ")[0] == boot:
        return False  # in another namespace of pids
    return bool(said["renewedAt"] < time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))


def _said(storage: Storage, attempt: int) -> Mapping[str, Any]:
    where = storage.url(attempt_file(attempt))
    try:
        said = json.loads(storage.read(attempt_file(attempt)))
        check_format(said.get("format", FORMAT), FORMAT, where)
        if "process" in said:
            Holder(**said["process"])
            float(said["renewedAt"]), str(said["host"]), str(said["startedAt"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}, which says who is at work in the run, is not readable ({type(error).__name__}: {error}); "
            "if nobody is, give --force"
        ) from error
    found: dict[str, Any] = said
    return found


def _machine() -> str:
    boot = _boot()
    try:
        return platform.node() if boot is None else f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _machine_id() -> str | None:
    """See machine-id(5); None where there is none, as in most containers."""
    try:
        return Path("/etc/machine-id").read_text().strip() or None
    except OSError:
        return None


def _born(pid: int) -> int | None:
    """Field 22 of proc(5) stat; None when there is none, and for one that has ended and was not waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if fields[0] not in "ZX" else None
