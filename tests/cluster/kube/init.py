"""Process 1 of a cluster's namespaces: starts, ends and reaps the cluster's processes.

Run as a script, with the standard library alone, under `unshare --mount --net --pid --uts`. When it ends, the kernel
ends every process of the namespaces and with them all mounts, interfaces and firewall rules: that is the whole
clean-up of a cluster, and it also works after a crash. It ends by itself when its owner is gone: an
open pidfd whose number it is told, since ids of processes outside mean nothing in here; -1 for none.

A UNIX socket takes one JSON request per connection: `{"op": "start", "name", "argv", "log"}`, `{"op": "stop",
"name", "signal"}` or `{"op": "list"}`, which answers `{name: {"pid", "exit"}}`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

# What kubelet wants of the kernel. It insists on writing these; over them lie plain files, since they are the
# machine's own and not the cluster's to change.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


class Processes:
    """The named children and how they ended."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._ended: dict[str, int] = {}

    def start(self, name: str, argv: list[str], log: str) -> dict[str, Any]:
        if name in self._running:
            return {"error": f"{name} runs already"}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        try:
            pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsid=True)
        except OSError as error:
            return {"error": f"{argv[0]}: {error.strerror}"}
        self._running[name] = pid
        self._ended.pop(name, None)
        return {"pid": pid}

    def stop(self, name: str, number: int) -> dict[str, Any]:
        if name in self._running:
            os.kill(self._running[name], number)
        return {}

    def list(self) -> dict[str, Any]:
        running = {name: {"pid": pid, "exit": None} for name, pid in self._running.items()}
        return running | {name: {"pid": None, "exit": code} for name, code in self._ended.items()}

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name, running in list(self._running.items()):
                if running == pid:
                    del self._running[name]
                    self._ended[name] = os.waitstatus_to_exitcode(status)


def prepare_namespaces(folder: Path, host_name: str) -> None:
    """Lay private folders over those that the node's programs share with the machine's own."""
    _run("mount", "--make-rshared", "/")  # kubelet and runc expect to pass mounts on to pods
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for target in ("/var/log", "/var/lib/cni"):
        source = folder / "over" / target.replace("/", "-").strip("-")
        source.mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", str(source), target)
    for name, value in _KERNEL_SETTINGS.items():
        if (target_file := Path("/proc/sys") / name).exists():
            file = folder / "over" / name.replace("/", "-")
            file.write_text(value + "\n")
            _run("mount", "--bind", str(file), str(target_file))
    _run("ip", "link", "set", "lo", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    socket.sethostname(host_name)


def serve(folder: Path, owner: int | None) -> None:
    """Answer requests until a TERM signal or the end of the owner (a pidfd)."""
    processes = Processes()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unready = folder / "init.sock.new"
    unready.unlink(missing_ok=True)
    server.bind(str(unready))
    server.listen(16)
    unready.rename(folder / "init.sock")  # there from when it answers
    waiting = [server.fileno(), wake_read] + ([owner] if owner is not None else [])
    while True:
        ready, _, _ = select.select(waiting, [], [])
        if owner in ready:
            return
        if wake_read in ready:
            os.read(wake_read, 512)
        processes.reap()
        if server.fileno() in ready:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(30)
                try:
                    _answer(connection, processes)
                except (OSError, ValueError, KeyError) as error:
                    print(f"bad request: {error!r}", flush=True)


def _answer(connection: socket.socket, processes: Processes) -> None:
    with connection.makefile("rw", encoding="utf-8") as stream:
        request = json.loads(stream.readline())
        match request["op"]:
            case "start":
                reply = processes.start(request["name"], request["argv"], request["log"])
            case "stop":
                reply = processes.stop(request["name"], request["signal"])
            case _:
                reply = processes.list()
        stream.write(json.dumps(reply) + "\n")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    folder, host_name, owner = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    prepare_namespaces(folder, host_name)
    serve(folder, owner if owner >= 0 else None)


if __name__ == "__main__":
    main()
