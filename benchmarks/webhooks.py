"""How long the payment webhook ingress takes to prove, keep and answer, at 50, 100 and 200 webhooks a second.

    python -m benchmarks.webhooks [--seconds 10]

A provider that waits too long for its 200 sends the event again. The limit is our aim (100 ms at p99); the peer is a
request to the same listener that stores nothing (a forged signature), in the same run.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from uuid import uuid4

import httpx
import stripe

from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.supervisor import PlatformOptions, Supervisor

AIM_P99_MS = 100.0
SENDERS = 16


def webhook(secret: str) -> tuple[str, dict[str, str]]:
    """A signed event about a session that is not ours: it is stored, and no payment matches it."""
    session = {"id": f"cs_{uuid4().hex}", "object": "checkout.session", "client_reference_id": str(uuid4())}
    event = {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "type": "checkout.session.completed",
        "data": {"object": session},
    }
    body = json.dumps(event)
    return body, {"stripe-signature": stripe.WebhookSignature.generate_signature_header(body, secret)}


async def send(url: str, secret: str, per_second: float, seconds: float, expected: int) -> list[float]:
    """Milliseconds of each answer, sent at an even rate whether or not earlier ones were answered."""
    times: list[float] = []
    senders = [httpx.AsyncClient(timeout=30, trust_env=False) for _ in range(SENDERS)]

    async def one(number: int) -> None:
        body, headers = webhook(secret)
        began = time.monotonic()
        answer = await senders[number % SENDERS].post(url, content=body, headers=headers)
        times.append((time.monotonic() - began) * 1000)
        assert answer.status_code == expected, answer.text

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            group.create_task(one(number))
    for sender in senders:
        await sender.aclose()
    return times


def summary(times_ms: Sequence[float]) -> tuple[str, str, float]:
    """Median, p99 as text, and p99."""
    ordered = sorted(times_ms)
    p99 = ordered[int(len(ordered) * 0.99) - 1]
    return f"{statistics.median(ordered):.1f}", f"{p99:.1f}", p99


async def measure(platform: PlatformDescription, seconds: float) -> list[tuple[str, ...]]:
    """One row for each rate."""
    url = f"{platform.urls['payments']}/webhooks/stripe"
    (secret,) = json.loads(platform.environments["payments"]["PAYMENTS_STRIPE_WEBHOOK_SECRETS"])
    await send(url, secret, 50, 2, 200)
    rows: list[tuple[str, ...]] = []
    for per_second in (50.0, 100.0, 200.0):
        say(f"{per_second:g} webhooks/s for {seconds:g} s ...")
        forged = summary(await send(url, "whsec_forged", per_second, seconds, 400))
        stored = summary(await send(url, secret, per_second, seconds, 200))
        rows.append(
            (
                f"{per_second:g}/s",
                *stored[:2],
                f"{stored[2] / AIM_P99_MS:.2f}",
                *forged[:2],
                f"{stored[2] / forged[2]:.1f}",
            )
        )
    return rows


async def main(seconds: float) -> None:
    """Start, measure, print, stop."""
    supervisor = Supervisor(PlatformOptions(name="bench-webhooks", workers=0, follow_logs=False))
    try:
        rows = await measure(await supervisor.start(), seconds)
        say("\nmilliseconds; stored: proved, stored and answered; refused: the peer, which stores nothing")
        heading = (
            "rate",
            "stored p50",
            "stored p99",
            "p99 of 100 ms",
            "refused p50",
            "refused p99",
            "p99 stored/refused",
        )
        say(table(heading, rows))
    finally:
        await supervisor.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long at each rate (default: 10)")
    asyncio.run(main(parser.parse_args().seconds))
