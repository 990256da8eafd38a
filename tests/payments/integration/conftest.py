"""The harness of payments, and a record of what was asked of Stripe."""

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.payments.harness import PaymentsHarness, running_harness
from tests.support.databases import Database

RECORD = Path(os.environ.get("REELHOUSE_STRIPE_REQUESTS", ".reelhouse/recorded/stripe-requests.jsonl"))


@pytest.fixture
async def harness(make_database: Callable[..., Awaitable[Database]]) -> AsyncIterator[PaymentsHarness]:
    """Payments in this process, over a database of its own."""
    async with running_harness(await make_database("payments")) as running:
        yield running
    _record(running.stripe.requests)


def _record(requests: list[dict[str, Any]]) -> None:
    """Keep what was asked of Stripe, to be held against its published OpenAPI description."""
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    with RECORD.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(request) + "\n" for request in requests)
