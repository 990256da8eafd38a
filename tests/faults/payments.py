"""Every way in which money comes and goes, on a whole platform, while the providers' webhooks misbehave.

    python -m tests.faults.payments [--rounds 2] [--sweep-seconds 10] [--seed 20261123]

For each kind of trouble (every webhook lost; or lost, doubled, corrupted and out of order at random) users buy with
each provider and in each way; some are refunded, some dispute. Nobody tells us but the sweeps. Printed is how long
it took after the last deed until all payments and balances were right; at the end the auditor checks all books.
Exit code 0 only if everything became right in time and the books hold.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from local_platform.api_client import ApiClient
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.supervisor import PlatformOptions, Supervisor
from messaging.ids import new_id

PROVIDERS = ("stripe", "btcpay", "nowpayments")
TROUBLES: dict[str, dict[str, Any]] = {
    "all lost": {"drop": 1.0},
    "storm": {"drop": 0.3, "double": 0.5, "corrupt": 0.3, "copies": 3, "reorder_window_seconds": 1.5},
}
HEALED_WITHIN_SECONDS = 300.0
"""The promise of the runbook, counted from the next sweep on."""


@dataclass(frozen=True)
class Checkout:
    """A payment that waits for its buyer: ``reference`` is the session or invoice at the provider."""

    reference: str
    url: str


class Providers:
    """The emulators' own switches: what happens there without our doing."""

    def __init__(self, platform: PlatformDescription) -> None:
        self._http = {name: httpx.AsyncClient(base_url=platform.urls[name], trust_env=False) for name in PROVIDERS}

    async def close(self) -> None:
        """Let the connections go."""
        for http in self._http.values():
            await http.aclose()

    async def misbehave(self, how: dict[str, Any]) -> None:
        """Switch the webhooks of all providers; ``{}`` ends it."""
        for http in self._http.values():
            (await http.put("/admin/misbehaviour", json=how)).raise_for_status()

    async def stripe(self, act: str, **given: Any) -> dict[str, Any]:
        """Somebody does something at Stripe."""
        return await self._post("stripe", f"/admin/acts/{act}", given)

    async def btcpay(self, checkout: Checkout, act: str) -> None:
        """The chain does something."""
        await self._post("btcpay", f"/admin/invoices/{checkout.reference}/{act}", {})

    async def nowpayments(self, checkout: Checkout, status: str) -> None:
        """The buyer's coins arrive, or do not."""
        await self._post("nowpayments", f"/admin/invoices/{checkout.reference}/payments", {"status": status})

    async def charge_of(self, checkout: Checkout) -> str:
        """The PaymentIntent of a paid session."""
        objects = (await self._http["stripe"].get("/admin/objects")).raise_for_status().json()
        (session,) = (one for one in _flat(objects) if one.get("id") == checkout.reference)
        return str(session["payment_intent"])

    async def _post(self, provider: str, path: str, given: dict[str, Any]) -> dict[str, Any]:
        answer = await self._http[provider].post(path, json=given)
        answer.raise_for_status()
        done: dict[str, Any] = answer.json() if answer.content else {}
        return done


def _flat(objects: Any) -> list[dict[str, Any]]:
    if isinstance(objects, dict) and "object" in objects:
        return [objects]
    values = objects.values() if isinstance(objects, dict) else objects if isinstance(objects, list) else ()
    return [found for value in values for found in _flat(value)]


async def _card(at: Providers, checkout: Checkout) -> None:
    await at.stripe("pay", session=checkout.reference)


async def _left_to_expire(at: Providers, checkout: Checkout) -> None:
    await at.stripe("expire", session=checkout.reference)


async def _bank_debit(at: Providers, checkout: Checkout, *, succeeded: bool) -> None:
    await at.stripe("pay", session=checkout.reference, method="delayed")
    await at.stripe("finish-delayed", session=checkout.reference, succeeded=succeeded)


async def _refunded(at: Providers, checkout: Checkout) -> None:
    await _card(at, checkout)
    await at.stripe("refund", payment_intent=await at.charge_of(checkout))


async def _disputed(at: Providers, checkout: Checkout, outcome: str) -> None:
    await _card(at, checkout)
    dispute = await at.stripe("dispute", payment_intent=await at.charge_of(checkout))
    await at.stripe("change-dispute", dispute=dispute["id"], status=outcome)


@dataclass(frozen=True)
class Story:
    """What happens to a payment at its provider, and how it must end: its status, and whether the credits stay."""

    name: str
    provider: str
    happens: Callable[[Providers, Checkout], Awaitable[None]]
    status: str
    keeps_credits: bool


STORIES = (
    Story("card", "stripe", _card, "settled", True),
    Story("bank debit", "stripe", lambda at, one: _bank_debit(at, one, succeeded=True), "settled", True),
    Story("bank debit fails", "stripe", lambda at, one: _bank_debit(at, one, succeeded=False), "failed", False),
    Story("left to expire", "stripe", _left_to_expire, "expired", False),
    Story("refunded in the dashboard", "stripe", _refunded, "refunded", False),
    Story("dispute lost", "stripe", lambda at, one: _disputed(at, one, "lost"), "dispute_lost", False),
    Story("dispute won", "stripe", lambda at, one: _disputed(at, one, "won"), "settled", True),
    Story("settled on the chain", "btcpay", lambda at, one: at.btcpay(one, "settle"), "settled", True),
    Story("invoice expires", "btcpay", lambda at, one: at.btcpay(one, "expire"), "expired", False),
    Story("paid in full", "nowpayments", lambda at, one: at.nowpayments(one, "finished"), "settled", True),
)


@dataclass
class Buyer:
    """One user with one payment and one story."""

    story: Story
    user: ApiClient
    payment: dict[str, Any]

    async def wrong(self) -> str | None:
        """What is not yet as it must be."""
        payment = await self.user.get(f"/v1/payments/{self.payment['id']}")
        balance = await self.user.get("/v1/balance")
        bought = payment["credits"] + payment["bonus_credits"]
        expected = (self.story.status, bought if self.story.keeps_credits else 0)
        seen = (payment["status"], balance["available_credits"] - balance["receivable_credits"])
        return None if seen == expected else f"{self.story.name}: {seen} and not {expected}"


async def buy(platform: PlatformDescription, story: Story) -> Buyer:
    """A new user begins a payment."""
    user = ApiClient(platform, new_id())
    pack = (await user.get("/v1/credit-packs"))["items"][0]
    payment = await user.post("/v1/payments", {"pack_id": pack["id"], "provider": story.provider}, str(new_id()))
    return Buyer(story, user, payment)


def checkout_of(buyer: Buyer) -> Checkout:
    """The provider's own id is the last part of its pay page's address."""
    url = httpx.URL(buyer.payment["checkout_url"])
    return Checkout(url.params.get("iid") or url.path.rsplit("/", 1)[-1], str(url))


async def heal(buyers: list[Buyer]) -> float:
    """Wait until everything is right; returns how long it took, in seconds. Raises TimeoutError naming what is not."""
    began = time.monotonic()
    while wrong := [what for what in await asyncio.gather(*(buyer.wrong() for buyer in buyers)) if what is not None]:
        if time.monotonic() - began > HEALED_WITHIN_SECONDS:
            raise TimeoutError("\n".join(wrong))
        await asyncio.sleep(0.5)
    return time.monotonic() - began


async def trouble(platform: PlatformDescription, name: str, rounds: int, seed: int) -> tuple[str, str, str]:
    """One kind of trouble from the first purchase until all is right; a row of the table."""
    at = Providers(platform)
    buyers: list[Buyer] = []
    try:
        await at.misbehave({**TROUBLES[name], "seed": seed})
        stories = list(STORIES) * rounds
        random.Random(seed).shuffle(stories)
        buyers += await asyncio.gather(*(buy(platform, story) for story in stories))
        await asyncio.gather(*(buyer.story.happens(at, checkout_of(buyer)) for buyer in buyers))
        say(f"{name}: {len(buyers)} payments, everything has happened at the providers; waiting for the sweeps ...")
        return name, str(len(buyers)), f"{await heal(buyers):.1f} s"
    finally:
        await at.misbehave({})
        await asyncio.gather(*(buyer.user.__aexit__() for buyer in buyers))
        await at.close()


async def main(rounds: int, sweep_seconds: float, seed: int) -> int:
    """Run it all and print the outcome; returns the exit code."""
    environment = {
        "payments": {"PAYMENTS_EVENTS_SWEEP_SECONDS": str(sweep_seconds)},
    }
    supervisor = Supervisor(PlatformOptions(name="faults-payments", workers=0, environment=environment))
    try:
        platform = await supervisor.start()
        rows = [await trouble(platform, name, rounds, seed) for name in TROUBLES]
        say(table(("trouble", "payments", "right after"), rows))
        return await _check_books(platform)
    except TimeoutError as error:
        say(f"not right after {HEALED_WITHIN_SECONDS:.0f} s:\n{error}")
        return 1
    finally:
        await supervisor.stop()


async def _check_books(platform: PlatformDescription) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditor.main", "check", "--settled"),
        env={**os.environ, **platform.environments["auditor"]},
    )
    return await process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="how often each story is told per trouble (default: 2)")
    parser.add_argument("--sweep-seconds", type=float, default=10.0, help="between two sweeps (production: 180)")
    parser.add_argument("--seed", type=int, default=20261123)
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.rounds, options.sweep_seconds, options.seed)))
