"""A platform whose one worker drives a real ComfyUI, on the CPU or on a GPU, with tiny random weights."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from catalogue import load_catalogue
from local_platform.api_client import ApiClient, ServerSentEvent
from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from local_platform.supervisor import PlatformOptions, Supervisor
from messaging.ids import new_id
from tests.comfyui_real.tiny_comfyui import REPOSITORY, chosen_device, tiny_comfyui
from tests.support.waiting import eventually

SMALL = {
    "prompt": "a lighthouse that only its owner sees",
    "width": 256,
    "height": 256,
    "duration_seconds": 1,
    "steps": 4,
}
"""As far as a model has these parameters."""
STEP_SECONDS = {"cpu": 0.0, "cuda": 0.4}
"""By device: how much longer each step of a sampler lasts, for reports, cancels and kills to meet it.

A GPU is done with tiny weights in a few hundredths of a second, where real ones take seconds.
"""
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
        small = SMALL | {"seed": int.from_bytes(os.urandom(4), "big")}
        asked = {name: value for name, value in small.items() if name in known} | parameters
        ordered = await self.user.post("/v1/generations", {"model_id": model_id, "parameters": asked}, str(new_id()))
        return str(ordered["id"])

    async def upload(self, content_type: str, content: bytes) -> str:
        """Upload something to start from; its id."""
        asked = {"content_type": content_type, "size_bytes": len(content)}
        upload = await self.user.post("/v1/uploads", asked, str(new_id()))
        async with httpx.AsyncClient(trust_env=False) as browser:
            (await browser.put(upload["url"], headers=upload["headers"], content=content)).raise_for_status()
        return str(upload["id"])

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

    async def ended(self, generation_id: str, seconds: float = 300) -> dict[str, Any]:
        """The order once it has ended."""
        found: dict[str, Any] = {}

        async def has_ended() -> bool:
            found.update(await self.user.get(f"/v1/generations/{generation_id}"))
            return found["status"] in FINAL

        await eventually(has_ended, seconds, f"the end of {generation_id}")
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

    def comfyui_boots(self) -> list[float]:
        """Seconds that each start of ComfyUI took, until it was ready."""
        ready = (json.loads(line) for line in self.worker_log().splitlines() if '"comfyui_ready"' in line)
        return [float(line["seconds"]) for line in ready]

    def files(self) -> list[str]:
        """What lies in ComfyUI's directories of input, output and temporary files."""
        work = Path(self.environment["COMFYUI_WORK_DIRECTORY"])
        return [str(path) for name in ("input", "output", "temp") for path in (work / name).rglob("*.*")]

    def prolong(self, what: Literal["step", "decode", "save"], seconds: float) -> None:
        """Let each step, decoding or save of ComfyUI last that much longer than it takes; see ``tiny_node.py``."""
        (Path(self.environment["COMFYUI_BASE_DIRECTORY"]) / f"{what}_seconds").write_text(str(seconds))

    def delivered(self, generation_id: str) -> list[str]:
        """The keys of an order's objects, whether they were accepted or not."""
        client = self.supervisor.wiring.s3.client("admin")
        found = []
        for bucket in ("incoming", "library"):
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                found += [item["Key"] for item in page.get("Contents", []) if generation_id in item["Key"]]
        return found

    def worker_log(self) -> str:
        """All that the worker wrote."""
        return (self.supervisor.log_directory / "worker-1.log").read_text()


@pytest.fixture(scope="session")
def worker_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a worker with a real ComfyUI, or a loud skip."""
    environment = tiny_comfyui(tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("work"))
    if environment is None:
        pytest.skip("NOT CHECKED AGAINST A REAL COMFYUI: set COMFYUI to a checkout of it")
    return environment


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
            harness.prolong("step", STEP_SECONDS[chosen_device()])
            harness.prolong("decode", 0.0)
            await harness.grant(5000)
            yield harness
    finally:
        await supervisor.stop()
