"""The machine's side of a cluster's namespaces: opens them, talks to their process 1, ends them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where Debian keeps runc and iptables, which a login shell of root may not have on its path.
SEARCH_PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/local/sbin:/usr/sbin:/sbin"

_INIT = Path(__file__).with_name("init.py")
# A loaded machine takes several times as long as a quiet one.
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 60.0
_REPLY_LIMIT_S = 60.0


class ProcessError(RuntimeError):
    """A process of the cluster did not start or ended too early."""


@dataclass(frozen=True)
class Namespaces:
    """A cluster's namespaces, held by the process `pid` of this machine."""

    folder: Path
    pid: int

    def start(self, name: str, argv: list[str]) -> None:
        """Start a process that logs to logs/NAME.log. Raises ProcessError when it cannot be started."""
        log = self.folder / "logs" / f"{name}.log"
        reply = self._request(op="start", name=name, argv=argv, log=str(log))
        if "error" in reply:
            raise ProcessError(f"starting {name}: {reply['error']}")

    def stop(self, name: str, *, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal and wait until the process has ended; after a minute it is killed."""
        deadline = time.monotonic() + _STOP_LIMIT_S
        self._request(op="stop", name=name, signal=int(with_signal))
        while self.running(name):
            if time.monotonic() > deadline:
                self._request(op="stop", name=name, signal=int(signal.SIGKILL))
            time.sleep(0.02)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal and return at once: SIGSTOP makes a component hang."""
        self._request(op="stop", name=name, signal=int(number))

    def running(self, name: str) -> bool:
        return self.list().get(name, {}).get("pid") is not None

    def list(self) -> dict[str, dict[str, Any]]:
        """Every process ever started, by name: `pid` inside the namespaces or None, and `exit` code or None."""
        return self._request(op="list")

    def require(self, name: str) -> None:
        """Raise ProcessError, with the end of its log, unless the process runs."""
        if not self.running(name):
            raise ProcessError(f"{name} has ended; its log ends with:\n{self.log_tail(name)}")

    def log_tail(self, name: str, *, lines: int = 15) -> str:
        path = self.folder / "logs" / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"

    def _request(self, **request: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_REPLY_LIMIT_S)
            try:
                connection.connect(str(self.folder / "init.sock"))
            except (FileNotFoundError, ConnectionRefusedError):
                raise ProcessError(f"the cluster in {self.folder} does not run") from None
            with connection.makefile("rw", encoding="utf-8") as stream:
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                reply: dict[str, Any] = json.loads(stream.readline())
                return reply


def open_namespaces(folder: Path, host_name: str, *, owner_pid: int | None) -> Namespaces:
    """Make the namespaces and their process 1; with an owner they end when that process does."""
    owner = os.pidfd_open(owner_pid) if owner_pid is not None else -1
    log = folder / "logs" / "init.log"
    command = ["unshare", "--mount", "--net", "--pid", "--uts", "--propagation", "private"]
    command += ["--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-I", "-S", str(_INIT), str(folder), host_name, str(owner)]
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={**os.environ, "PATH": SEARCH_PATH},
                start_new_session=True,
                pass_fds=[owner] if owner >= 0 else [],
            )
    finally:
        if owner >= 0:
            os.close(owner)
    remember(folder, process.pid)
    deadline = time.monotonic() + _START_LIMIT_S
    while not (folder / "init.sock").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise ProcessError(f"namespaces did not open:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)
    process.returncode = 0  # it is meant to outlive this object; without this Popen warns when collected
    return Namespaces(folder, process.pid)


def remember(folder: Path, pid: int) -> None:
    (folder / "init.json").write_text(json.dumps({"pid": pid, "started": _start_time(pid)}))


def find_namespaces(folder: Path) -> Namespaces | None:
    """The namespaces that an earlier process opened in `folder`, if they still exist."""
    try:
        known = json.loads((folder / "init.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    pid = int(known["pid"])
    return Namespaces(folder, pid) if _start_time(pid) == known["started"] else None


def close_namespaces(namespaces: Namespaces) -> None:
    """End every process in the namespaces and wait until they are gone."""
    members = _members(namespaces.pid)
    os.kill(namespaces.pid, signal.SIGKILL)
    deadline = time.monotonic() + _STOP_LIMIT_S
    while any(_start_time(pid) == started for pid, started in members.items()):
        if time.monotonic() > deadline:
            raise ProcessError(f"processes of {namespaces.folder} do not end: {sorted(members)}")
        try:
            os.waitpid(namespaces.pid, os.WNOHANG)
        except ChildProcessError:  # another process started it, and another reaps it
            pass
        time.sleep(0.02)


def _members(holder: int) -> dict[int, int | None]:
    """The holder and all processes of its process namespace, with their start times."""
    try:
        namespace = os.readlink(f"/proc/{holder}/ns/pid_for_children")
    except FileNotFoundError:
        return {}
    members = {holder: _start_time(holder)}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "ns" / "pid") == namespace:
                    members[int(entry.name)] = _start_time(int(entry.name))
            except OSError:  # ended while we looked
                continue
    return members


def _start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
