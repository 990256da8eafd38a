"""A platform whose one worker drives a real ComfyUI on the CPU, with tiny random weights."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from catalogue import load_catalogue
from local_platform.api_client import ApiClient, ServerSentEvent
from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from local_platform.supervisor import PlatformOptions, Supervisor
from messaging.ids import new_id
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
TINY_WEIGHTS = REPOSITORY / "gpu-endpoint/comfyui_real/tiny_weights.py"
TINY_ENCODERS = TINY_WEIGHTS.with_name("tiny_encoders.py")
MODELS = REPOSITORY / "libs/catalogue/src/catalogue/models"
TINY_MODELS = ("wan-2.2-t2v", "wan-2.2-i2v", "flux-schnell")
"""Those of the catalogue that the weights writer knows."""

SMALL = {"width": 256, "height": 256, "duration_seconds": 1, "steps": 4}
PLAN = "studio"
FINAL = ("completed", "failed", "cancelled", "refused")


@dataclass
class RealPlatformHarness:
    """The platform and one of its users."""

    supervisor: Supervisor
    platform: PlatformDescription
    user: ApiClient
    environment: dict[str, str] = field(repr=False)

    async def grant(self, credits: int) -> None:
        """Give the user credits, as an operator does."""
        who = ["--user", str(self.user.user_id), "--actor", "check", "--grant-id", str(new_id())]
        self.command("billing", "grant", *who, "--credits", str(credits), "--reason", "signup")
        await eventually(self.has_credits, 30, "the credits")

    async def has_credits(self) -> bool:
        """Whether the user can order."""
        return bool((await self.balance())[0])

    async def balance(self) -> tuple[int, int]:
        """Available and reserved credits."""
        balance = await self.user.get("/v1/balance")
        return balance["available_credits"], balance["reserved_credits"]

    def command(self, service: str, *arguments: str) -> None:
        """Run a service's own command with the settings that it has in this platform."""
        command = [sys.executable, "-m", f"{service}.main", *arguments]
        subprocess.run(command, env={**os.environ, **self.platform.environments[service]}, check=True)

    async def order(self, model_id: str = "wan-2.2-t2v", **parameters: Any) -> str:
        """Order something small; its id."""
        known = load_catalogue().model(model_id).parameters_schema["properties"]
        small = {name: max(value, known[name].get("minimum", value)) for name, value in SMALL.items() if name in known}
        seed = int.from_bytes(os.urandom(4), "big")
        asked = small | {"prompt": "a lighthouse that only its owner sees", "seed": seed} | parameters
        ordered = await self.user.post("/v1/generations", {"model_id": model_id, "parameters": asked}, str(new_id()))
        return str(ordered["id"])

    async def cancel(self, generation_id: str) -> None:
        """Ask for the end of an order."""
        headers = {"Authorization": f"Bearer {sign_token(self.platform.identity, self.user.user_id, PLAN)}"}
        async with httpx.AsyncClient(base_url=self.platform.urls["gateway"], headers=headers, trust_env=False) as http:
            answer = await http.post(f"/v1/generations/{generation_id}/cancel")
        assert answer.status_code in (200, 202)

    async def follow(self, generation_id: str) -> AsyncIterator[ServerSentEvent]:
        """The events of one order until it has ended."""
        async with contextlib.aclosing(self.user.events()) as events:
            async for event in events:
                if event.data.get("generation_id") == generation_id:
                    yield event
                    if event.data.get("status") in FINAL:
                        return

    async def ended(self, generation_id: str) -> dict[str, Any]:
        """The order once it has ended."""
        found: dict[str, Any] = {}

        async def has_ended() -> bool:
            found.update(await self.user.get(f"/v1/generations/{generation_id}"))
            return found["status"] in FINAL

        await eventually(has_ended, 300, f"the end of {generation_id}")
        return found

    async def download(self, generation_id: str) -> bytes:
        """The file, over a new link: one lasts ten minutes."""
        generation = await self.user.get(f"/v1/generations/{generation_id}")
        async with httpx.AsyncClient(trust_env=False) as anybody:
            answer = await anybody.get(generation["download"]["url"])
        assert answer.status_code == 200
        return answer.content

    def comfyui_pid(self) -> int | None:
        """The process of ComfyUI: the one child of the worker that runs a main.py."""
        worker = self.supervisor._processes["worker-1"].pid
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                    if parent == worker and b"main.py" in (entry / "cmdline").read_bytes():
                        return int(entry.name)
        return None

    def files(self) -> list[str]:
        """What lies in ComfyUI's directories of input, output and temporary files."""
        work = Path(self.environment["COMFYUI_WORK_DIRECTORY"])
        return [str(path) for name in ("input", "output", "temp") for path in (work / name).rglob("*.*")]

    def worker_log(self) -> str:
        """All that the worker wrote."""
        return (self.supervisor.log_directory / "worker-1.log").read_text()


@pytest.fixture(scope="session")
def worker_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a worker with a real ComfyUI, or a loud skip."""
    directory = os.environ.get("COMFYUI", "")
    if not directory:
        pytest.skip("NOT CHECKED AGAINST A REAL COMFYUI: set COMFYUI to a checkout of it")
    checkout = Path(directory)
    python = os.environ.get("COMFYUI_PYTHON") or str(checkout / ".venv/bin/python")
    base = tmp_path_factory.mktemp("base")
    (base / "custom_nodes").mkdir()
    shutil.copy(TINY_ENCODERS, base / "custom_nodes")
    workflows = [str(path) for name in TINY_MODELS for path in sorted((MODELS / name).glob("workflow*.json"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [python, str(TINY_WEIGHTS), str(base / "models"), *workflows]
    subprocess.run(command, cwd=checkout, env=environment, check=True)
    assert {model.id for model in load_catalogue().offered} >= set(TINY_MODELS)
    return {
        "RENDERER": "comfyui",
        "COMFYUI_DIRECTORY": str(checkout),
        "COMFYUI_PYTHON": python,
        "COMFYUI_ARGUMENTS": f"--cpu --base-directory {base}",
        "COMFYUI_WORK_DIRECTORY": str(tmp_path_factory.mktemp("work")),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
async def real(worker_environment: dict[str, str], tmp_path: Path) -> AsyncIterator[RealPlatformHarness]:
    """A platform of the test's own, and a user with credits."""
    (tmp_path / "gpu-endpoint").symlink_to(REPOSITORY / "gpu-endpoint")
    options = PlatformOptions(name="real", root=tmp_path, environment={"worker-1": worker_environment})
    supervisor = Supervisor(options)
    try:
        platform = await supervisor.start()
        async with ApiClient(platform, new_id(), PLAN) as user:
            harness = RealPlatformHarness(supervisor, platform, user, worker_environment)
            await harness.grant(5000)
            yield harness
    finally:
        await supervisor.stop()
