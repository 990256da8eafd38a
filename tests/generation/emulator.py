"""The RunPod emulator as a process of its own, and its admin API."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from service_runtime.authorities import trusted_authorities
from tests.support.fork_server import start_forked
from tests.support.waiting import eventually

API_KEY = "a key for tests"


class Emulator:
    """A running emulator."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.AsyncClient(base_url=url, trust_env=False, verify=trusted_authorities())

    async def misbehave(self, effect: str, **rule: Any) -> None:
        """Apply one rule from now on; ``count`` limits how often."""
        (await self._http.post("/admin/rules", json={"effect": effect, **rule})).raise_for_status()

    async def behave(self) -> None:
        """Remove every rule."""
        (await self._http.delete("/admin/rules")).raise_for_status()

    async def jobs(self) -> list[dict[str, Any]]:
        """Every job, past ones included."""
        return list((await self._http.get("/admin/jobs")).json())

    async def close(self) -> None:
        await self._http.aclose()


@asynccontextmanager
async def emulating(directory: Path) -> AsyncIterator[Emulator]:
    """An emulator that runs inside the block."""
    ready_file = directory / "ready.json"
    process = await start_forked(
        "local_platform.runpod_emulator.__main__",
        *("--port", "0", "--api-key", API_KEY, "--ready-file", str(ready_file)),
        environment={},
    )
    try:
        await eventually(ready_file.exists, 30.0, "the emulator started")
        emulator = Emulator(json.loads(ready_file.read_text())["url"])
        try:
            yield emulator
        finally:
            await emulator.close()
    finally:
        process.terminate()
        await process.wait()
