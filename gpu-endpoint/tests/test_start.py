"""What the worker does before it takes its first job."""

import subprocess
import sys
from typing import Final

_IMPORT: Final = """
import subprocess

def refuse(*arguments, **options):
    raise SystemExit(f"the SDK started {arguments}")

from gpu_endpoint import __main__
subprocess.Popen.__init__ = refuse
__main__._import_sdk()
import runpod.serverless, sys
assert "cpuinfo" not in sys.modules
"""


def test_the_import_of_the_sdk_starts_no_other_process() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
