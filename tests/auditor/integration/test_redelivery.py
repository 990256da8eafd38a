"""A published message that a reader lost: the auditor names it, and one command heals it."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import check
from auditor.invariants.messages import MESSAGES
from contracts.billing import CreditsRefused
from gateway.consumers import subscriptions
from messaging import redelivery
from messaging.runtime import Messaging
from service_runtime.settings import ServiceSettings
from tests.messaging.integration.effects import publish_refused
from tests.support.components import running
from tests.support.databases import Database
from tests.support.waiting import eventually

LOST = [invariant for invariant in MESSAGES if invariant.code == "messages_are_consumed"]


async def lost(auditor: AsyncEngine) -> list[str]:
    """The messages that the auditor finds to be unhandled, on a system at rest."""
    [result] = (await check(auditor, 0.0, LOST)).results
    assert result.failure is None
    return [violation.subject for violation in result.violations]


@pytest.mark.parametrize("how", ["by its id", "by subject and time"])
async def test_a_message_that_a_reader_lost_is_a_finding_until_it_is_redelivered(
    database: Database, auditor: AsyncEngine, broker_settings: Callable[[str], ServiceSettings], how: str
) -> None:
    billing = Messaging(
        service="billing", engine=database.engine("billing"), settings=broker_settings("billing"), subscriptions=()
    )
    gateway = Messaging(
        service="gateway",
        engine=database.engine("gateway"),
        settings=broker_settings("gateway"),
        subscriptions=subscriptions(lambda _: None),
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running([*billing.components(), *gateway.components()]))
        [message_id] = await publish_refused(billing.transactions, 1)

        async def handled() -> bool:
            return await lost(auditor) == []

        async def published() -> bool:
            async with auditor.connect() as connection:
                query = text("SELECT count(*) FROM billing.outbox_messages WHERE published_at IS NOT NULL")
                return bool((await connection.execute(query)).scalar())

        await eventually(published, 30, "the publication")
        await eventually(handled, 30, "the receipt")
        async with database.superuser_engine().begin() as connection:
            await connection.execute(text("DELETE FROM gateway.inbox_messages"))
        assert await lost(auditor) == [str(message_id)]

        which = [str(message_id)]
        if how == "by subject and time":
            which = ["--subject", CreditsRefused.subject, "--since", "2026-01-01T00:00:00Z"]
        command = ["--dsn", database.dsn("gateway"), "--schema", "gateway", "--outbox-dsn", database.dsn("auditor")]
        assert await asyncio.to_thread(redelivery.main, [*command, "--actor", "ada", *which]) == 0

        await eventually(handled, 30, "the receipt of the redelivery")
        await eventually(lambda: is_replayed(auditor), 30, "the end of the redelivery")


async def is_replayed(auditor: AsyncEngine) -> bool:
    """Whether no redelivery waits any more."""
    async with auditor.connect() as connection:
        waiting = await connection.execute(text("SELECT count(*) FROM gateway.dead_letters WHERE replayed_at IS NULL"))
        return bool(waiting.scalar() == 0)
