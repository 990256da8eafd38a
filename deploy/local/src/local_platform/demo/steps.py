"""The steps of the demo, in their order."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import httpx
import msgspec

from auditor.timeline import read_timeline, render_timeline
from contracts.storage import DIGITAL_SOURCE_TYPE
from local_platform.api_client import ApiClient
from local_platform.console import indented, say, table
from local_platform.demo.session import Session, check
from local_platform.demo.shapes import CreditPack, Generation, Model, Order, Payment, RefusedOrder, StatementLine
from local_platform.marks import mark_of
from local_platform.media import encoded_again
from messaging.ids import new_id
from service_runtime.database import engine_for

CLIP: Final[Order] = {
    "model_id": "wan-2.2-t2v",
    "parameters": {"prompt": "A lighthouse in a storm, waves breaking over the rocks"},
}
PICTURE: Final[Order] = {
    "model_id": "z-image-turbo",
    "parameters": {"prompt": "A paper boat on a mountain lake at dawn"},
}
FAILING_CLIP: Final[Order] = {
    "model_id": "ltx-2.5-t2v",
    "parameters": {"prompt": "A train that never arrives"},
}
CLIP_FILE: Final = "clip.mp4"
SIGNUP_CREDITS: Final = 50
SETTINGS: Final = {
    "gateway": {"GATEWAY_SIGNUP_CREDITS": str(SIGNUP_CREDITS)},
    "billing": {"BILLING_MAX_SIGNUP_CREDITS": str(SIGNUP_CREDITS)},
}
"""What the steps need of a platform's services."""
ATTEMPTS: Final = 3
"""How often generation tries before it fails an order: its default."""


@dataclass
class Story:
    """What the steps share."""

    session: Session
    clip_key: str = field(default_factory=lambda: str(new_id()))
    clip: Generation | None = None

    @property
    def completed_clip(self) -> Generation:
        """The clip, once it was made."""
        assert self.clip is not None
        return self.clip


async def sign_up(story: Story) -> None:
    session = story.session
    session.heading("A user signs up and gets credits")
    await session.balance_becomes(SIGNUP_CREDITS)
    check(True, f"user {session.user.user_id} came for the first time, and has {SIGNUP_CREDITS} credits")
    models = await session.items("/v1/models", Model)
    say(table(("model", "kind", "title"), [(model.id, model.kind, model.title) for model in models]))


async def buy_with_card(story: Story) -> None:
    story.session.heading("They buy a pack of credits with a card (Stripe emulator, its real pay page)")
    await _buy(story.session, "stripe", {"method": "card"})


async def buy_with_crypto(story: Story) -> None:
    story.session.heading("They buy another with crypto (BTCPay emulator)")
    await _buy(story.session, "btcpay", {})


async def _buy(session: Session, provider: str, form: dict[str, str]) -> None:
    pack = (await session.items("/v1/credit-packs", CreditPack))[0]
    before = (await session.balance()).available_credits
    order = {"pack_id": pack.id, "provider": provider}
    payment = msgspec.convert(await session.user.post("/v1/payments", order, str(new_id())), Payment)
    say(f"  checkout: {payment.checkout_url}")
    async with httpx.AsyncClient(trust_env=False) as browser:
        paid = await browser.post(payment.checkout_url, data=form)
    check(paid.status_code == httpx.codes.SEE_OTHER, "the pay page took the money and sends the buyer back")
    bought = pack.credits + pack.bonus_credits
    await session.balance_becomes(before + bought)
    check(True, f"{bought} credits arrived, once: {before} -> {before + bought}")


async def order_clip(story: Story) -> None:
    session = story.session
    session.heading("They order a clip; while it renders, the generation service is killed with -9")
    before = (await session.balance()).available_credits
    ordered = await session.place_order(CLIP, story.clip_key)
    killing = asyncio.create_task(session.kill_while_running("generation", ordered.id))
    story.clip = await session.follow(ordered.id)
    await killing
    check(story.clip.status == "completed", "the clip is completed all the same")
    after = before - ordered.price_credits
    await session.balance_becomes(after)
    check(True, f"and charged once: {before} -> {after}")


async def repeat_order(story: Story) -> None:
    session = story.session
    session.heading("The same request again, as a browser with a bad connection sends it")
    before = await session.balance()
    again = await session.place_order(CLIP, story.clip_key, expect=200)
    check(again.id == story.completed_clip.id, "it is answered with the first result")
    check(await session.balance() == before, "and not charged again")


async def order_picture(story: Story) -> None:
    session = story.session
    session.heading("A picture")
    before = (await session.balance()).available_credits
    ordered = await session.place_order(PICTURE, str(new_id()))
    picture = await session.follow(ordered.id)
    check(picture.status == "completed", "the picture is completed")
    await session.balance_becomes(before - ordered.price_credits)
    await session.download(picture, "picture.png")


async def show_hops(story: Story) -> None:
    story.session.heading("Every hop of the clip, across the services (from the auditor's journal)")
    dsn = story.session.platform.postgres.dsns["auditor"]
    engine = engine_for(dsn, application_name="reelhouse-demo")
    try:
        async with engine.connect() as connection:
            hops = await read_timeline(connection, UUID(story.completed_clip.id))
    finally:
        await engine.dispose()
    say(indented(render_timeline(hops)))
    services = {hop.producer for hop in hops}
    check(services >= {"gateway", "billing", "generation", "storage"}, "all four services are in it")


async def show_clip(story: Story) -> None:
    story.session.heading("The clip itself")
    media = await story.session.download(story.completed_clip, CLIP_FILE)
    check(media.codec == "h264" and media.frames > 1, "it decodes, to the last frame")


async def show_mark(story: Story) -> None:
    session = story.session
    session.heading("Who made it? The clip says so, and anybody may ask")
    path = session.directory / CLIP_FILE
    clip = await asyncio.to_thread(path.read_bytes)
    certificates = session.platform.environments["storage"]["STORAGE_MARKING_CERTIFICATES"]
    mark = mark_of(clip, "video/mp4", root=certificates[certificates.rindex("-----BEGIN") :])
    assert mark is not None
    say(f"  {mark.action} {mark.source_type}")
    check(mark.state == "Trusted" and mark.source_type == DIGITAL_SOURCE_TYPE, "a C2PA reader accepts its mark")
    say("  POST /v1/verify")
    delivered = await session.verify(clip)
    check(delivered.made_here, delivered.explanation)
    copy = await session.verify(await asyncio.to_thread(encoded_again, path))
    check(not copy.made_here, f"a copy that was encoded again: {copy.explanation}")


async def refuse_poor_user(story: Story) -> None:
    story.session.heading("Somebody with too few credits")
    async with ApiClient(story.session.platform, new_id()) as poor:
        await story.session.grant(poor.user_id, 1, "goodwill")
        answer = await poor.post("/v1/generations", CLIP, str(new_id()), expect=402)
    refused = msgspec.convert(answer, RefusedOrder)
    say(f"  402 {refused.code}: required {refused.required}, available {refused.available}")
    check(refused.required > refused.available, "is refused, and told what is missing")


async def fail_job(story: Story) -> None:
    session = story.session
    session.heading(f"A job that fails on the GPU, {ATTEMPTS} times over")
    before = await session.balance()
    rule = {"effect": "fail_job", "input": {"model_id": FAILING_CLIP["model_id"]}, "count": ATTEMPTS}
    async with httpx.AsyncClient(base_url=session.platform.urls["runpod"], trust_env=False) as emulator:
        (await emulator.post("/admin/rules", json=rule)).raise_for_status()
    ordered = await session.place_order(FAILING_CLIP, str(new_id()))
    failed = await session.follow(ordered.id)
    check(failed.status == "failed", f"the order fails: {failed.failure.code if failed.failure else 'no code'}")
    await session.balance_becomes(before.available_credits, before.reserved_credits)
    check(True, f"and its credits are back: {before.available_credits}")


async def show_statement(story: Story) -> None:
    story.session.heading("The statement")
    newest_first = await story.session.items("/v1/ledger", StatementLine, limit="100")
    lines = sorted(newest_first, key=lambda line: line.line_number)
    rows = [
        (
            str(line.line_number),
            line.reason,
            f"{line.available_delta_credits:+d}",
            f"{line.reserved_delta_credits:+d}",
            str(line.available_after_credits),
            str(line.reserved_after_credits),
        )
        for line in lines
    ]
    say(table(("#", "reason", "available", "reserved", "available after", "reserved after"), rows))
    check(_adds_up(lines), "it adds up line by line to the balance")


def _adds_up(lines: Sequence[StatementLine]) -> bool:
    available = reserved = 0
    for number, line in enumerate(lines, start=1):
        available += line.available_delta_credits
        reserved += line.reserved_delta_credits
        after = (line.available_after_credits, line.reserved_after_credits)
        if line.line_number != number or after != (available, reserved):
            return False
    return True


async def check_books(story: Story) -> None:
    story.session.heading("The books of all services")
    say(indented(await story.session.run_command("auditor", "check", "--settled")))
    check(True, "credits are conserved over all schemas, and nothing is left open")


STEPS: Final[tuple[Callable[[Story], Awaitable[None]], ...]] = (
    sign_up,
    buy_with_card,
    buy_with_crypto,
    order_clip,
    repeat_order,
    order_picture,
    show_hops,
    show_clip,
    show_mark,
    refuse_poor_user,
    fail_job,
    show_statement,
    check_books,
)
