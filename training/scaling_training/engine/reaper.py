"""Nothing of a local Ray outlives its driver, even one that is killed.

Ray's node ends with its parent, but its agents first try for a minute or two to tell the dead node, and nobody
removes its folder. So a shell waits for the end of a pipe that only the driver holds; then it ends every process
that has a file open in that folder, as all of Ray's have their logs, and removes the folder.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Ray gets this long to end by itself after its driver has gone.
GRACE_S = 0.5
# How long a loaded machine may take to look through its processes.
LIMIT_S = 60
# One in an uninterruptible wait for a disk or a server outlives even SIGKILL, perhaps for ever. So the search is given
# up after so many rounds, with 0.1 s, 0.2 s and so on between them: 46 s, less than LIMIT_S.
ROUNDS = 30
# Neither names nor environments are of use: Ray's processes overwrite both with their titles. One that starts another
# while it is looked for may be missed, so this goes on until nobody is left.
_SCRIPT = """
read -r _
sleep "$2"
left() {
  # The driver has files open there, too; it may live on.
  find /proc/[0-9]*/fd -mindepth 1 -printf '%h -> %l\\n' 2>/dev/null |
    grep -F -- "-> $1/" | cut -d/ -f3 | sort -u | grep -vx -- "$2"
}
round=0
while [ "$round" -lt "$4" ] && processes=$(left "$1" "$3"); do
  kill -KILL $processes 2>/dev/null
  round=$((round + 1))
  sleep "$((round / 10)).$((round % 10))"
done
rm -rf "$1"
"""


@contextmanager
def reaped(folder: Path) -> Iterator[None]:
    """Start Ray in ``folder`` within the block; at its end, or when this process dies, both are gone."""
    reaper = subprocess.Popen(
        ["sh", "-c", _SCRIPT, "reaper", str(folder), str(GRACE_S), str(os.getpid()), str(ROUNDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Out of reach of a Ctrl-C on the terminal.
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert reaper.stdin is not None
        reaper.stdin.close()
        try:
            reaper.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            reaper.kill()
            reaper.wait()
