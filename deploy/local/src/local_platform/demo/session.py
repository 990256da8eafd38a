"""What the steps of the demo are made of: one user's calls, operator commands, and checks."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx
import msgspec

from local_platform.api_client import ApiClient
from local_platform.console import bold, dim, green, say
from local_platform.demo.shapes import Balance, Generation, Order, Verification
from local_platform.description import PlatformDescription
from local_platform.media import MediaProbe, probe
from local_platform.supervisor import Supervisor
from messaging.ids import new_id

Item = TypeVar("Item", bound=msgspec.Struct)

ENDED: Final = ("completed", "failed", "cancelled", "refused")
_END_TIMEOUT_SECONDS: Final = 120.0
_BALANCE_TIMEOUT_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1
_GRANT_PAUSES_SECONDS: Final = (1.0, 3.0, 9.0)


class DemoFailedError(RuntimeError):
    """Something that the demo promises does not hold."""


def check(holds: bool, what: str) -> None:
    """Print what holds, or fail the demo."""
    if not holds:
        raise DemoFailedError(what)
    say("  ", green("✓"), f" {what}")


class Session:
    """One user of a running platform, whose operator and whose supervisor we are, too."""

    def __init__(self, supervisor: Supervisor, platform: PlatformDescription, user: ApiClient) -> None:
        self.platform = platform
        self.user = user
        self._supervisor = supervisor
        self._steps = 0

    @property
    def directory(self) -> Path:
        """Where downloads go."""
        return self._supervisor.directory

    def heading(self, text: str) -> None:
        """Begin a step."""
        self._steps += 1
        say("\n", bold(f"{self._steps}. {text}"))

    async def items(self, path: str, kind: type[Item], **parameters: str) -> list[Item]:
        """The items of one page of a list."""
        page = await self.user.get(path, **parameters)
        return [msgspec.convert(item, kind) for item in page["items"]]

    async def balance(self) -> Balance:
        """What the user can spend, and what is reserved."""
        return msgspec.convert(await self.user.get("/v1/balance"), Balance)

    async def balance_becomes(self, available: int, reserved: int = 0) -> None:
        """Wait until the balance is this one: the read model follows the ledger within milliseconds."""
        expected = Balance(available, reserved)
        deadline = time.monotonic() + _BALANCE_TIMEOUT_SECONDS
        while (seen := await self.balance()) != expected:
            if time.monotonic() > deadline:
                raise DemoFailedError(f"expected {expected}, saw {seen}")
            await asyncio.sleep(_POLL_SECONDS)

    async def run_command(self, service: str, *arguments: str) -> str:
        """Run a command of a service with the settings that it has in this platform. Returns what it prints."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"{service}.main", *arguments),
            env={**os.environ, **self.platform.environments[service]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        text = output.decode().strip()
        if process.returncode != 0:
            raise DemoFailedError(f"{service} {arguments[0]} ended with {process.returncode}: {text}")
        return text

    async def grant(self, user_id: UUID, credits: int, reason: str) -> None:
        """Grant credits as an operator does, until the user sees them.

        The id makes it safe to repeat if the database was unavailable.
        """
        what = ["--credits", str(credits), "--reason", reason, "--actor", "demo", "--grant-id", str(new_id())]
        what += ["--wait-seconds", f"{_BALANCE_TIMEOUT_SECONDS:g}"]
        for pause_seconds in _GRANT_PAUSES_SECONDS:
            try:
                await self.run_command("billing", "grant", "--user", str(user_id), *what)
            except DemoFailedError as error:
                say(dim(f"  once more: {str(error).splitlines()[-1]}"))
                await asyncio.sleep(pause_seconds)
            else:
                return
        raise DemoFailedError("credits could not be granted")

    async def place_order(self, order: Order, key: str, expect: int = 201) -> Generation:
        """Order a generation under an idempotency key."""
        generation = msgspec.convert(await self.user.post("/v1/generations", order, key, expect), Generation)
        say(f"  generation {generation.id} for {generation.price_credits} credits")
        return generation

    async def generation(self, generation_id: str) -> Generation:
        """The generation as it is now."""
        return msgspec.convert(await self.user.get(f"/v1/generations/{generation_id}"), Generation)

    async def follow(self, generation_id: str) -> Generation:
        """Print the user's events until the generation has ended, and return it."""
        try:
            async with asyncio.timeout(_END_TIMEOUT_SECONDS), contextlib.aclosing(self.user.events()) as events:
                async for event in events:
                    if event.data.get("generation_id") == generation_id:
                        _say_event(event.type, event.data)
                        if event.data.get("status") in ENDED:
                            break
        except TimeoutError as error:
            raise DemoFailedError(
                f"generation {generation_id} did not end within {_END_TIMEOUT_SECONDS:.0f} s"
            ) from error
        return await self.generation(generation_id)

    async def kill_while_running(self, service: str, generation_id: str) -> None:
        """Kill a service with -9 as soon as the generation runs."""
        status = "requested"
        while status not in ("running", *ENDED):
            await asyncio.sleep(_POLL_SECONDS)
            status = (await self.generation(generation_id)).status
        say("  ", dim("kill -9"), f" {service}")
        self._supervisor.kill(service)

    async def download(self, generation: Generation, name: str) -> MediaProbe:
        """Download the file of a generation through its link, decode it and print what it is."""
        assert generation.download is not None
        path = self.directory / name
        async with httpx.AsyncClient(trust_env=False) as anybody:
            response = await anybody.get(generation.download.url)
        check(response.status_code == httpx.codes.OK, f"{name} is downloaded through its short-lived link")
        await asyncio.to_thread(path.write_bytes, response.content)
        return _say_media(path)

    async def verify(self, file: bytes) -> Verification:
        """Ask, as anybody may, whether a file was made here."""
        async with httpx.AsyncClient(base_url=self.platform.urls["gateway"], trust_env=False) as anybody:
            headers = {"Content-Type": "application/octet-stream"}
            response = await anybody.post("/v1/verify", content=file, headers=headers)
        return msgspec.json.decode(response.raise_for_status().content, type=Verification)


def _say_media(path: Path) -> MediaProbe:
    media = probe(path)
    length = f", {media.duration_seconds:.2f} s at {media.frames_per_second:g}/s" if media.frames > 1 else ""
    size = f"{media.width_pixels}x{media.height_pixels}"
    say(f"  {path}")
    say(f"  {media.container} {media.codec} {size}, {media.frames} frames{length}, {media.size_bytes} bytes")
    return media


def _say_event(event_type: str, data: Mapping[str, Any]) -> None:
    if event_type == "generation.progress":
        say("  ", dim("event"), f" {data['percent']:3} %  {data.get('stage') or ''}")
        return
    if event_type == "generation.estimated":
        expected = data["estimated_completion_at"]
        say("  ", dim("event"), " estimated ", dim(f"queue_position={data['queue_position']} completion={expected}"))
        return
    hidden = ("name", "generation_id", "at", "status")
    details = " ".join(f"{key}={value}" for key, value in data.items() if key not in hidden and value is not None)
    say("  ", dim("event"), f" {data['name']} ", dim(details))
