"""gpu-endpoint is another environment: its own tests and types are checked there."""

import subprocess

from tests.gpu_endpoint.worker import GPU_ENDPOINT, PYTHON, needs_environment


@needs_environment
def test_its_own_tests_pass_in_its_own_environment() -> None:
    done = subprocess.run([PYTHON, "-m", "pytest", "-q"], cwd=GPU_ENDPOINT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_environment
def test_its_types_are_right() -> None:
    done = subprocess.run([PYTHON, "-m", "mypy"], cwd=GPU_ENDPOINT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
