"""The guardian: it ends what a killed parent left, and only that."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.support import eventually
from tests.support.service_processes import is_running

_PARENT = """
import os, subprocess, sys
from pathlib import Path
from local_platform.guardian import GUARDIAN

directory = Path(sys.argv[1])
children = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2)]
for child in children:
    GUARDIAN.watch(child.pid)
GUARDIAN.remove(directory / "gone")
GUARDIAN.remove(directory / "kept")
GUARDIAN.keep(directory / "kept")
children[1].kill()
children[1].wait()
GUARDIAN.forget(children[1].pid)
print(children[0].pid, flush=True)
sys.stdin.read()
"""


def _orphan(directory: Path) -> int:
    """Process id of a child whose parent has just been killed with -9."""
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
    return child


async def test_children_and_directories_of_a_killed_parent_are_removed(tmp_path: Path) -> None:
    gone, kept = tmp_path / "gone", tmp_path / "kept"
    for directory in (gone, kept):
        directory.mkdir()
        (directory / "file").write_text("content")
    child = _orphan(tmp_path)
    await eventually(lambda: not is_running(child), what="the child is gone")
    await eventually(lambda: not gone.exists(), what="the directory is gone")
    assert (kept / "file").read_text() == "content"
