"""What an operator can do about messages: discard a dead letter, and have a published message delivered again."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest

from contracts import headers
from contracts.billing import CreditsRefused
from messaging import dead_letters, redelivery
from messaging.consumers import Subscription
from messaging.ids import new_id
from messaging.schema import table_statements
from tests.messaging.integration.conftest import MessagingHarness
from tests.messaging.integration.effects import effects, execute, expect_effects, publish_refused, record, scalar
from tests.support import eventually

REFUSED = CreditsRefused.subject


class Printed(NamedTuple):
    code: int
    rows: list[dict[str, Any]]
    errors: str


@pytest.fixture
def run(harness: MessagingHarness, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command of the gateway's operator, with the exit code that a shell would see."""

    async def run(main: Callable[[list[str]], int], *arguments: str) -> Printed:
        capsys.readouterr()
        target = ("--dsn", harness.database.dsn("gateway"), "--schema", "gateway")
        try:
            code = await asyncio.to_thread(main, [*arguments, *target])
        except SystemExit as error:
            code = int(str(error.code))
        printed = capsys.readouterr()
        rows = [json.loads(line) for line in printed.out.splitlines() if line.startswith("{")]
        return Printed(code, rows, printed.err)

    return run


async def undecodable(harness: MessagingHarness) -> UUID:
    """A dead letter that no replay can help."""
    await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    client = await harness.admin()
    message_id = new_id()

    async def is_dead() -> bool:
        await client.publish(REFUSED, b"{", headers={headers.MESSAGE_ID: str(message_id)})
        return bool(await scalar(harness.engine("gateway"), "SELECT count(*) FROM gateway.dead_letters"))

    await eventually(is_dead)
    return message_id


async def test_an_undecodable_dead_letter_is_discarded_with_reason_and_actor(
    harness: MessagingHarness, run: Callable[..., Any]
) -> None:
    message_id = str(await undecodable(harness))
    discard = ("discard", message_id, "--actor", "Ada", "--reason", "a probe of ours")
    discarded = await run(dead_letters.main, *discard)
    assert (discarded.code, [row["message_id"] for row in discarded.rows]) == (0, [message_id])
    listed = await run(dead_letters.main, "list")
    assert (listed.code, listed.rows, listed.errors) == (1, [], "no dead letter matches\n")
    (row,) = (await run(dead_letters.main, "list", "--all")).rows
    assert (row["discarded_by"], row["discard_reason"]) == ("Ada", "a probe of ours")
    assert row["discarded_at"] is not None


async def test_a_discarded_dead_letter_is_neither_replayed_nor_discarded_again(
    harness: MessagingHarness, run: Callable[..., Any]
) -> None:
    message_id = str(await undecodable(harness))
    await run(dead_letters.main, "discard", message_id, "--actor", "Ada", "--reason", "a probe of ours")
    assert (await run(dead_letters.main, "discard", message_id, "--actor", "Bob", "--reason", "again")).code == 1
    assert (await run(dead_letters.main, "replay", message_id)).code == 1
    assert (await run(dead_letters.main, "replay", "--all")).code == 1
    (row,) = (await run(dead_letters.main, "show", message_id)).rows
    assert row["discarded_by"] == "Ada"


@pytest.mark.parametrize("missing", ["--actor", "--reason"])
async def test_a_dead_letter_is_not_discarded_without(missing: str, run: Callable[..., Any]) -> None:
    given = [part for name in ("--actor", "--reason") if name != missing for part in (name, "said")]
    refused = await run(dead_letters.main, "discard", str(new_id()), *given)
    assert refused.code == 2
    assert missing in refused.errors


@pytest.fixture
async def outboxes(harness: MessagingHarness) -> str:
    """Access to the outbox of every service that the gateway reads: as the auditor, which may read all schemas."""
    connection = await asyncpg.connect(harness.database.dsn("storage_migrator"))
    for statement in table_statements("storage"):
        await connection.execute(statement)
    await connection.close()
    return str(harness.database.dsn("auditor"))


async def lost(harness: MessagingHarness, count: int) -> list[UUID]:
    """Messages of billing that the gateway has received; of the first, nothing is left, as after a restore."""
    billing = await harness.start("billing")
    await harness.start("gateway", [Subscription(CreditsRefused, record)])
    ids = await publish_refused(billing.transactions, count)
    engine = harness.engine("gateway")
    await expect_effects(engine, ids)

    async def all_marked() -> bool:
        unmarked = "SELECT count(*) FROM billing.outbox_messages WHERE published_at IS NULL"
        return bool(await scalar(harness.engine("billing"), unmarked) == 0)

    # The relay marks what it has published a moment later, many commits together.
    await eventually(all_marked)
    for table in ("effects", "inbox_messages"):
        await execute(engine, f"DELETE FROM gateway.{table} WHERE message_id = :id", id=ids[0])
    return ids


def from_outbox(outboxes: str, *arguments: str) -> tuple[str, ...]:
    return (*arguments, "--outbox-dsn", outboxes, "--actor", "Ada")


async def test_a_published_message_is_delivered_again_by_its_id(
    harness: MessagingHarness, outboxes: str, run: Callable[..., Any]
) -> None:
    ids = await lost(harness, 3)
    asked = await run(redelivery.main, *from_outbox(outboxes, str(ids[0]), str(ids[1])))
    assert (asked.code, {row["message_id"] for row in asked.rows}) == (0, {str(ids[0]), str(ids[1])})
    await expect_effects(harness.engine("gateway"), ids)


async def test_messages_are_delivered_again_by_subject_and_time_and_take_effect_once(
    harness: MessagingHarness, outboxes: str, run: Callable[..., Any]
) -> None:
    ids = await lost(harness, 5)
    began = datetime.now(UTC) - timedelta(minutes=5)
    asked = await run(redelivery.main, *from_outbox(outboxes, "--subject", REFUSED, "--since", began.isoformat()))
    assert {row["message_id"] for row in asked.rows} == {str(one) for one in ids}

    async def all_replayed() -> bool:
        waiting = "SELECT count(*) FROM gateway.dead_letters WHERE replayed_at IS NULL"
        return bool(await scalar(harness.engine("gateway"), waiting) == 0)

    await eventually(all_replayed)
    assert sorted(await effects(harness.engine("gateway"))) == sorted(ids)


async def test_a_redelivery_outside_the_time_finds_nothing(
    harness: MessagingHarness, outboxes: str, run: Callable[..., Any]
) -> None:
    await lost(harness, 1)
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    asked = await run(redelivery.main, *from_outbox(outboxes, "--subject", REFUSED, "--since", later))
    assert (asked.code, asked.rows) == (1, [])


async def test_a_message_is_redelivered_only_to_a_service_that_reads_it(outboxes: str, run: Callable[..., Any]) -> None:
    other = "billing.command.grant-credits.v1"
    refused = await run(
        redelivery.main, *from_outbox(outboxes, "--subject", other, "--since", datetime.now(UTC).isoformat())
    )
    assert refused.code == 2
    assert f"gateway does not read {other}" in refused.errors
    unknown = await run(redelivery.main, *from_outbox(outboxes, str(new_id())))
    assert (unknown.code, unknown.errors) == (1, "no published message that the service reads matches\n")
