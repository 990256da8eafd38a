"""The whole job on one machine, told and checked: ``make demo``.

Every step prints what it shows and fails the demo if it does not hold; the last step checks the books of all services.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from auditor.terminal import as_text
from auditor.timeline import read_timeline, render_timeline
from local_platform.api_client import ApiClient, UnexpectedAnswerError
from local_platform.console import bold, dim, green, red, say, table
from local_platform.description import PlatformDescription
from local_platform.media import MediaProbe, probe
from local_platform.supervisor import Supervisor
from messaging.ids import new_id
from service_runtime.database import engine_for

CLIP: dict[str, Any] = {
    "model_id": "wan-2.2-t2v",
    "parameters": {"prompt": "A lighthouse in a storm, waves breaking over the rocks"},
}
PICTURE: dict[str, Any] = {
    "model_id": "flux-schnell",
    "parameters": {"prompt": "A paper boat on a mountain lake at dawn"},
}
FAILING_CLIP: dict[str, Any] = {
    "model_id": "ltx-video",
    "parameters": {"prompt": "A train that never arrives"},
}
SIGNUP_CREDITS = 50
ATTEMPTS = 3
"""How often generation tries before it gives up: its default."""

_FINAL = ("completed", "failed", "cancelled", "refused")
_FINISH_TIMEOUT_SECONDS = 120.0
_POLL_SECONDS = 0.1


class DemoFailedError(RuntimeError):
    """Something that the demo promises did not hold."""


async def run_demo(supervisor: Supervisor, platform: PlatformDescription) -> int:
    """Tell the story from the first credit to the last check. Returns the exit code."""
    began = time.monotonic()
    try:
        async with ApiClient(platform, new_id(), plan="pro") as user:
            await _Demo(supervisor, platform, user).run()
    except (DemoFailedError, UnexpectedAnswerError) as error:
        say(red(f"\nThe demo failed: {error}"))
        return 1
    say(green(f"\nAll of it held, in {time.monotonic() - began:.1f} s."))
    return 0


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise DemoFailedError(what)
    say(f"  {green('✓')} {what}")


class _Demo:
    def __init__(self, supervisor: Supervisor, platform: PlatformDescription, user: ApiClient) -> None:
        self._supervisor = supervisor
        self._platform = platform
        self._user = user
        self._step = 0
        self._clip_key = str(new_id())

    async def run(self) -> None:
        await self._welcome()
        await self._buy_with_card()
        await self._buy_with_crypto()
        clip = await self._order_clip()
        await self._repeat(clip)
        await self._picture()
        await self._timeline(clip)
        await self._look_at(clip)
        await self._refused()
        await self._failing_job()
        await self._statement()
        await self._check_books()

    def _heading(self, text: str) -> None:
        self._step += 1
        say(f"\n{bold(f'{self._step}. {text}')}")

    async def _balance(self) -> tuple[int, int]:
        balance = await self._user.get("/v1/balance")
        return balance["available_credits"], balance["reserved_credits"]

    async def _balance_becomes(self, available: int, reserved: int, timeout_seconds: float = 60.0) -> None:
        """Wait until the statement shows it: reading is eventually consistent, by milliseconds."""
        deadline = time.monotonic() + timeout_seconds
        while (seen := await self._balance()) != (available, reserved):
            if time.monotonic() > deadline:
                raise DemoFailedError(f"expected {available} available and {reserved} reserved, saw {seen}")
            await asyncio.sleep(_POLL_SECONDS)

    async def _command(self, service: str, *arguments: str) -> str:
        """Run a service's own command with the settings it has in this platform."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"{service}.main", *arguments),
            env={**os.environ, **self._platform.environments[service]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        text = output.decode().strip()
        if process.returncode != 0:
            raise DemoFailedError(f"{service} {arguments[0]} ended with {process.returncode}: {text}")
        return text

    async def _grant(self, user_id: UUID, credits: int, reason: str) -> None:
        """Grant as an operator does; the id makes it safe to say again if the database was away."""
        who = ("--user", str(user_id), "--actor", "demo", "--grant-id", str(new_id()))
        for pause_seconds in (1.0, 3.0, 9.0):
            try:
                await self._command("billing", "grant", *who, "--credits", str(credits), "--reason", reason)
            except DemoFailedError as error:
                say(dim(f"  once more: {str(error).splitlines()[-1]}"))
                await asyncio.sleep(pause_seconds)
            else:
                return
        raise DemoFailedError("credits could not be granted")

    async def _welcome(self) -> None:
        self._heading("A user signs up and gets credits")
        await self._grant(self._user.user_id, SIGNUP_CREDITS, "signup")
        await self._balance_becomes(SIGNUP_CREDITS, 0)
        _must(True, f"user {self._user.user_id} has {SIGNUP_CREDITS} credits")
        models = await self._user.get("/v1/models")
        rows = [(model["id"], model["kind"], model["title"]) for model in models["items"]]
        say(table(("model", "kind", "title"), rows))

    async def _buy_with_card(self) -> None:
        self._heading("They buy a pack of credits with a card (Stripe emulator, its real pay page)")
        await self._buy("stripe", {"method": "card"})

    async def _buy_with_crypto(self) -> None:
        self._heading("They buy another with crypto (BTCPay emulator)")
        await self._buy("btcpay", {})

    async def _buy(self, provider: str, form: dict[str, str]) -> None:
        pack = (await self._user.get("/v1/credit-packs"))["items"][0]
        before, _ = await self._balance()
        asked = {"pack_id": pack["id"], "provider": provider}
        payment = await self._user.post("/v1/payments", asked, str(new_id()))
        say(f"  checkout: {payment['checkout_url']}")
        async with httpx.AsyncClient(trust_env=False) as browser:
            paid = await browser.post(payment["checkout_url"], data=form)
        _must(paid.status_code == httpx.codes.SEE_OTHER, "the pay page took the money and sends the buyer back")
        bought = pack["credits"] + pack["bonus_credits"]
        await self._balance_becomes(before + bought, 0)
        _must(True, f"{bought} credits arrived, once: {before} -> {before + bought}")

    async def _order(self, order: dict[str, Any], key: str, expect: int = 201) -> dict[str, Any]:
        generation: dict[str, Any] = await self._user.post("/v1/generations", order, key, expect)
        say(f"  generation {generation['id']} for {generation['price_credits']} credits")
        return generation

    async def _ended(self, generation_id: str) -> dict[str, Any]:
        """Follow the user's own event stream until the generation has ended, showing what comes."""
        with _within(_FINISH_TIMEOUT_SECONDS, f"generation {generation_id} did not end"):
            async with asyncio.timeout(_FINISH_TIMEOUT_SECONDS), contextlib.aclosing(self._user.events()) as events:
                async for event in events:
                    if event.data.get("generation_id") == generation_id:
                        say(f"  {dim('event')} {_told(event.type, event.data)}")
                        if event.data.get("status") in _FINAL:
                            break
        generation: dict[str, Any] = await self._user.get(f"/v1/generations/{generation_id}")
        return generation

    async def _order_clip(self) -> dict[str, Any]:
        self._heading("They order a clip; while it renders, the generation service is killed with -9")
        before, _ = await self._balance()
        clip = await self._order(CLIP, self._clip_key)
        price = clip["price_credits"]
        killing = asyncio.create_task(self._kill_while_running(clip["id"]))
        ended = await self._ended(clip["id"])
        await killing
        _must(ended["status"] == "completed", "the clip is completed all the same")
        await self._balance_becomes(before - price, 0)
        _must(True, f"and charged once: {before} -> {before - price}")
        return ended

    async def _kill_while_running(self, generation_id: str) -> None:
        status = "requested"
        while status not in ("running", *_FINAL):
            await asyncio.sleep(_POLL_SECONDS)
            status = (await self._user.get(f"/v1/generations/{generation_id}"))["status"]
        say(f"  {dim('kill -9')} generation")
        self._supervisor.kill("generation")

    async def _repeat(self, clip: dict[str, Any]) -> None:
        self._heading("The same request again, as a browser with a bad connection sends it")
        before = await self._balance()
        again = await self._order(CLIP, self._clip_key, expect=200)
        _must(again["id"] == clip["id"], "it is answered with the first result")
        _must(await self._balance() == before, "and not charged again")

    async def _picture(self) -> None:
        self._heading("A picture")
        before, _ = await self._balance()
        picture = await self._order(PICTURE, str(new_id()))
        ended = await self._ended(picture["id"])
        _must(ended["status"] == "completed", "the picture is completed")
        await self._balance_becomes(before - picture["price_credits"], 0)
        self._show_media(await self._download(ended, "picture.png"))

    async def _timeline(self, clip: dict[str, Any]) -> None:
        self._heading("Every hop of the clip, across the services (from the auditor's journal)")
        engine = engine_for(self._platform.postgres.dsns["auditor"], application_name="reelhouse-demo")
        try:
            async with engine.connect() as connection:
                hops = await read_timeline(connection, UUID(clip["id"]))
        finally:
            await engine.dispose()
        say(_indented(as_text(render_timeline(hops))))
        services = {hop.producer for hop in hops}
        _must(services >= {"gateway", "billing", "generation", "storage"}, "all four services are in it")

    async def _look_at(self, clip: dict[str, Any]) -> None:
        self._heading("The clip itself")
        found = self._show_media(await self._download(clip, "clip.mp4"))
        _must(found.codec == "h264" and found.frames > 1, "it decodes, to the last frame")

    def _show_media(self, path: Path) -> MediaProbe:
        found = probe(path)
        length = f", {found.duration_seconds:.2f} s at {found.frames_per_second:g}/s" if found.frames > 1 else ""
        say(f"  {path}")
        size = f"{found.width_pixels}x{found.height_pixels}"
        say(f"  {found.container} {found.codec} {size}, {found.frames} frames{length}, {found.size_bytes} bytes")
        return found

    async def _refused(self) -> None:
        self._heading("Somebody with too few credits")
        async with ApiClient(self._platform, new_id()) as poor:
            await self._grant(poor.user_id, 1, "signup")
            problem = await poor.post("/v1/generations", CLIP, str(new_id()), expect=402)
        say(f"  402 {problem['code']}: required {problem['required']}, available {problem['available']}")
        _must(problem["required"] > problem["available"], "is refused, and told what is missing")

    async def _failing_job(self) -> None:
        self._heading(f"A job that fails on the GPU, {ATTEMPTS} times over")
        before = await self._balance()
        rule = {"effect": "fail_job", "input": {"model_id": FAILING_CLIP["model_id"]}, "count": ATTEMPTS}
        async with httpx.AsyncClient(base_url=self._platform.urls["runpod"], trust_env=False) as emulator:
            (await emulator.post("/admin/rules", json=rule)).raise_for_status()
        failing = await self._order(FAILING_CLIP, str(new_id()))
        ended = await self._ended(failing["id"])
        _must(ended["status"] == "failed", f"it is given up: {ended['failure']['code']}")
        await self._balance_becomes(*before)
        _must(True, f"and its credits are back: {before[0]}")

    async def _statement(self) -> None:
        self._heading("The statement")
        lines = (await self._user.get("/v1/ledger", limit="100"))["items"]
        oldest_first = sorted(lines, key=lambda line: line["line_number"])
        rows = [
            (
                str(line["line_number"]),
                line["reason"],
                f"{line['available_delta_credits']:+d}",
                f"{line['reserved_delta_credits']:+d}",
                str(line["available_after_credits"]),
                str(line["reserved_after_credits"]),
            )
            for line in oldest_first
        ]
        say(table(("#", "reason", "available", "reserved", "available after", "reserved after"), rows))
        _must(_adds_up(oldest_first), "it adds up line by line to the balance")

    async def _check_books(self) -> None:
        self._heading("The books of all services")
        say(_indented(await self._command("auditor", "check", "--settled")))
        _must(True, "credits are conserved over all schemas, and nothing is left open")

    async def _download(self, generation: dict[str, Any], name: str) -> Path:
        path = self._supervisor.directory / name
        async with httpx.AsyncClient(trust_env=False) as anybody:
            answer = await anybody.get(generation["download"]["url"])
        _must(answer.status_code == httpx.codes.OK, f"{name} is downloaded through its short-lived link")
        await asyncio.to_thread(path.write_bytes, answer.content)
        return path


def _adds_up(lines: list[dict[str, Any]]) -> bool:
    available = reserved = 0
    for number, line in enumerate(lines, start=1):
        available += line["available_delta_credits"]
        reserved += line["reserved_delta_credits"]
        after = (line["available_after_credits"], line["reserved_after_credits"])
        if line["line_number"] != number or after != (available, reserved):
            return False
    return True


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _told(event_type: str, data: dict[str, Any]) -> str:
    """One event in one line."""
    if event_type == "generation.progress":
        return f"{data['percent']:3} %  {data.get('stage') or ''}"
    hidden = ("name", "generation_id", "at", "status")
    told = " ".join(f"{key}={value}" for key, value in data.items() if key not in hidden and value is not None)
    return f"{data['name']} {dim(told)}"


@contextlib.contextmanager
def _within(seconds: float, otherwise: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise DemoFailedError(f"{otherwise} within {seconds:.0f} s") from error
