"""The worker's list of model files is the catalogue's."""

import subprocess

from tests.gpu_endpoint.worker import GPU_ENDPOINT, PYTHON, needs_environment

MODELS = GPU_ENDPOINT.parent / "libs/catalogue/src/catalogue/models"


@needs_environment
def test_the_manifest_is_that_of_the_catalogue() -> None:
    command = [str(PYTHON), "-m", "gpu_endpoint.provision", "manifest", str(MODELS)]
    made = subprocess.run(command, capture_output=True, check=True).stdout
    assert (GPU_ENDPOINT / "models.json").read_bytes() == made, "make models-manifest"
