"""Every way in which money comes and goes, on a whole platform, while webhooks and processes fail.

    python -m tests.faults.payments [--rounds 2] [--disasters 60] [--seed 20261123]

Users buy with each provider and in each way; some are refunded, some dispute. Meanwhile every webhook is lost, or
webhooks are lost, doubled, corrupted and reordered at random, so that only the sweeps tell us what happened. Then users
buy while the services of the way of money, NATS and PostgreSQL are killed, frozen and cut off at random. All services
run with the timers that are shipped. Printed is how long it took after the last event until all payments and balances
were right. At the end the auditor checks all books. Exit code 0 only if everything became right in time and the books
hold.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from contracts.payments import PROVIDERS, Provider
from local_platform.api_client import ApiClient, UnexpectedAnswerError
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.supervisor import PlatformOptions
from messaging.ids import new_id
from tests.faults.books import check_books
from tests.faults.disasters import DisasterRunner, fault_rows, kinds, schedule
from tests.faults.fragile_platform import FragilePlatform

WEBHOOK_FAULTS: dict[str, dict[str, Any]] = {
    "all lost": {"drop": 1.0},
    "storm": {"drop": 0.3, "double": 0.5, "corrupt": 0.3, "copies": 3, "reorder_window_seconds": 1.5},
}
RIGHT_WITHIN_SECONDS = 300.0
"""The promise of the runbook, where only the sweep of every three minutes tells us what happened."""
RIGHT_AFTER_DISASTERS_SECONDS = 60.0
DISASTERS_PER_SECOND = 0.5
SECONDS_BETWEEN_BUYERS = 0.7
WAY_OF_MONEY = ("payments", "billing", "gateway", "auditor", "nats", "postgres")


class Providers:
    """The emulators' own switches: what happens there without a request of ours."""

    def __init__(self, platform: PlatformDescription, clients: contextlib.AsyncExitStack) -> None:
        self._http = {name: httpx.AsyncClient(base_url=platform.urls[name], trust_env=False) for name in PROVIDERS}
        for http in self._http.values():
            clients.push_async_callback(http.aclose)

    async def misbehave(self, how: dict[str, Any]) -> None:
        """Switch the webhooks of all providers; ``{}`` ends it."""
        for http in self._http.values():
            (await http.put("/admin/misbehaviour", json=how)).raise_for_status()

    async def stripe(self, act: str, **given: Any) -> dict[str, Any]:
        """The buyer, the bank or the dashboard does something at Stripe."""
        return await self._post("stripe", f"/admin/acts/{act}", given)

    async def btcpay(self, reference: str, act: str) -> None:
        """The chain does something."""
        await self._post("btcpay", f"/admin/invoices/{reference}/{act}", {})

    async def nowpayments(self, reference: str, status: str) -> None:
        """The buyer's coins arrive, or do not."""
        await self._post("nowpayments", f"/admin/invoices/{reference}/payments", {"status": status})

    async def _post(self, provider: Provider, path: str, given: dict[str, Any]) -> dict[str, Any]:
        answer = await self._http[provider].post(path, json=given)
        answer.raise_for_status()
        done: dict[str, Any] = answer.json() if answer.content else {}
        return done


async def _card(at: Providers, reference: str) -> str:
    """Pay; returns the PaymentIntent."""
    return str((await at.stripe("pay", session=reference))["payment_intent"])


async def _bank_debit(at: Providers, reference: str, *, succeeded: bool) -> None:
    await at.stripe("pay", session=reference, method="delayed")
    await at.stripe("finish-delayed", session=reference, succeeded=succeeded)


async def _refunded(at: Providers, reference: str) -> None:
    await at.stripe("refund", payment_intent=await _card(at, reference))


async def _disputed(at: Providers, reference: str, outcome: str) -> None:
    dispute = await at.stripe("dispute", payment_intent=await _card(at, reference))
    await at.stripe("change-dispute", dispute=dispute["id"], status=outcome)


@dataclass(frozen=True)
class Scenario:
    """What happens to a payment at its provider, and how it must end: its status, and whether the credits stay."""

    name: str
    provider: Provider
    happens: Callable[[Providers, str], Awaitable[object]]
    status: str
    keeps_credits: bool


SCENARIOS = (
    Scenario("card", "stripe", _card, "settled", True),
    Scenario("bank debit", "stripe", lambda at, one: _bank_debit(at, one, succeeded=True), "settled", True),
    Scenario("bank debit fails", "stripe", lambda at, one: _bank_debit(at, one, succeeded=False), "failed", False),
    Scenario("left to expire", "stripe", lambda at, one: at.stripe("expire", session=one), "expired", False),
    Scenario("refunded in the dashboard", "stripe", _refunded, "refunded", False),
    Scenario("dispute lost", "stripe", lambda at, one: _disputed(at, one, "lost"), "dispute_lost", False),
    Scenario("dispute won", "stripe", lambda at, one: _disputed(at, one, "won"), "settled", True),
    Scenario("settled on the chain", "btcpay", lambda at, one: at.btcpay(one, "settle"), "settled", True),
    Scenario("invoice expires", "btcpay", lambda at, one: at.btcpay(one, "expire"), "expired", False),
    Scenario("paid in full", "nowpayments", lambda at, one: at.nowpayments(one, "finished"), "settled", True),
)


@dataclass
class Buyer:
    """One user with one payment and one scenario."""

    scenario: Scenario
    user: ApiClient
    payment: dict[str, Any]

    async def wrong(self) -> str | None:
        """What is not yet as it must be."""
        payment = await self.user.get(f"/v1/payments/{self.payment['id']}")
        balance = await self.user.get("/v1/balance")
        bought = payment["credits"] + payment["bonus_credits"]
        expected = (self.scenario.status, bought if self.scenario.keeps_credits else 0)
        seen = (payment["status"], balance["available_credits"] - balance["receivable_credits"])
        return None if seen == expected else f"{self.scenario.name}: {seen} and not {expected}"


async def buy(platform: PlatformDescription, scenario: Scenario, clients: contextlib.AsyncExitStack) -> Buyer:
    """A new user begins a payment, and repeats under one key what was not answered."""
    user = await clients.enter_async_context(ApiClient(platform, new_id(), patience_seconds=RIGHT_WITHIN_SECONDS))
    pack = (await user.get("/v1/credit-packs"))["items"][0]
    body, key = {"pack_id": pack["id"], "provider": scenario.provider}, str(new_id())
    return Buyer(scenario, user, await user.post("/v1/payments", body, key))


def reference_of(buyer: Buyer) -> str:
    """The session or invoice at the provider: the last part of its pay page's address."""
    url = httpx.URL(buyer.payment["checkout_url"])
    return url.params.get("iid") or url.path.rsplit("/", 1)[-1]


async def wait_until_right(buyers: Sequence[Buyer]) -> float:
    """Wait until everything is right; returns how long it took, in seconds. Raises TimeoutError naming what is not."""
    began = time.monotonic()
    while wrong := [what for what in await asyncio.gather(*(buyer.wrong() for buyer in buyers)) if what is not None]:
        if time.monotonic() - began > RIGHT_WITHIN_SECONDS:
            raise TimeoutError("\n".join(wrong))
        await asyncio.sleep(0.5)
    return time.monotonic() - began


async def run_fault(platform: PlatformDescription, name: str, rounds: int, seed: int) -> tuple[str, str, str]:
    """One way in which webhooks fail, from the first purchase until all is right; returns a row of the table."""
    async with contextlib.AsyncExitStack() as clients:
        at = Providers(platform, clients)
        await at.misbehave({**WEBHOOK_FAULTS[name], "seed": seed})
        scenarios = list(SCENARIOS) * rounds
        random.Random(seed).shuffle(scenarios)
        buyers = await asyncio.gather(*(buy(platform, scenario, clients) for scenario in scenarios))
        await asyncio.gather(*(buyer.scenario.happens(at, reference_of(buyer)) for buyer in buyers))
        say(f"{name}: {len(buyers)} payments, all events have happened at the providers; waiting for the sweeps ...")
        seconds = await wait_until_right(buyers)
        await at.misbehave({})
        return name, str(len(buyers)), f"{seconds:.1f} s"


async def run_disasters(
    supervisor: FragilePlatform, platform: PlatformDescription, disasters: int, seed: int
) -> tuple[tuple[str, str, str], DisasterRunner]:
    """Users buy, one after the other, until the last of the disasters is over; returns a row of the table."""
    planned = schedule(seed, disasters, DISASTERS_PER_SECOND, kinds(supervisor, WAY_OF_MONEY))
    over = asyncio.Event()
    async with contextlib.AsyncExitStack() as clients:
        directory = clients.enter_context(tempfile.TemporaryDirectory(prefix="reelhouse-faults-"))
        runner, at = DisasterRunner(supervisor, platform, Path(directory)), Providers(platform, clients)
        buying = asyncio.create_task(_buy_until(over, platform, at, clients))
        try:
            await runner.run(planned)
        finally:
            over.set()
        say("the last disaster is over; waiting until everything is right ...")
        began = time.monotonic()
        buyers = await buying
        await wait_until_right(buyers)
        seconds = time.monotonic() - began
        if seconds > RIGHT_AFTER_DISASTERS_SECONDS:
            raise TimeoutError(f"everything was right {seconds:.0f} s after the last disaster")
        return (f"delivered; {runner.counts.total()} disasters", str(len(buyers)), f"{seconds:.1f} s"), runner


async def _buy_until(
    over: asyncio.Event, platform: PlatformDescription, at: Providers, clients: contextlib.AsyncExitStack
) -> list[Buyer]:
    async def buy_one(scenario: Scenario) -> Buyer:
        buyer = await buy(platform, scenario, clients)
        await scenario.happens(at, reference_of(buyer))
        return buyer

    buying: list[asyncio.Task[Buyer]] = []
    while not over.is_set():
        buying.append(asyncio.create_task(buy_one(SCENARIOS[len(buying) % len(SCENARIOS)])))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), SECONDS_BETWEEN_BUYERS)
    return await asyncio.gather(*buying)


async def main(rounds: int, disasters: int, seed: int) -> int:
    """Run it all and print the outcome; returns the exit code."""
    supervisor = FragilePlatform(PlatformOptions(name="faults-payments", workers=0))
    try:
        platform = await supervisor.start()
        rows = [await run_fault(platform, name, rounds, seed) for name in WEBHOOK_FAULTS]
        row, runner = await run_disasters(supervisor, platform, disasters, seed)
        say(table(("disaster", "victim", "times"), fault_rows(runner)))
        say(table(("webhooks", "payments", "right after"), [*rows, row]))
        for death in runner.unexpected_deaths:
            say(f"died without a disaster: {death}")
        return max(await check_books(platform), 1 if runner.unexpected_deaths else 0)
    except (TimeoutError, UnexpectedAnswerError) as error:
        say(f"not right in time: {error}")
        return 1
    finally:
        await supervisor.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="runs of each scenario per kind of fault (default: 2)")
    parser.add_argument("--disasters", type=int, default=60, help="how many in all (default: 60)")
    parser.add_argument("--seed", type=int, default=20261123)
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.rounds, options.disasters, options.seed)))
