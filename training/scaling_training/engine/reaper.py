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
LIMIT_S = 10
# Neither names nor environments are of use: Ray's processes overwrite both with their titles.
_SCRIPT = """
read -r _
sleep "$2"
for process in /proc/[0-9]*; do
  # The driver has files open there, too; it may live on.
  if [ "$process" != "/proc/$3" ] && ls -l "$process/fd" 2>/dev/null | grep -qF -- "-> $1/"; then
    kill -KILL "${process#/proc/}" 2>/dev/null
  fi
done
rm -rf "$1"
"""


@contextmanager
def reaped(folder: Path) -> Iterator[None]:
    """Start Ray in ``folder`` within the block; at its end, or when this process dies, both are gone."""
    reaper = subprocess.Popen(
        ["sh", "-c", _SCRIPT, "reaper", str(folder), str(GRACE_S), str(os.getpid())],
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
