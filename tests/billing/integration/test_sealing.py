"""Tamper evidence: what was sealed cannot change, go or come without being named."""

from collections.abc import Sequence
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY

from billing import handlers
from billing.loops import sealer as sealer_module
from billing.loops.sealer import Sealer
from billing.verification import LedgerReport, verify
from local_platform.servers import PostgresServer
from tests.billing.ledger_harness import LedgerHarness, completed, order, received
from tests.support import eventually
from tests.support.databases import Database, DatabaseFactory


def _named(report: LedgerReport) -> list[tuple[str, str]]:
    return [(finding.kind, finding.subject.split(" (")[0]) for finding in report.findings]


@pytest.fixture
async def sealed_ledger(ledger: LedgerHarness) -> LedgerHarness:
    """Ten postings of five transfers, sealed."""
    user = uuid4()
    await ledger.grant(user, 100, note="welcome")
    first, _ = await ledger.reserve(user, 30), await ledger.reserve(user, 20)
    await ledger.handle(handlers.resolve, completed(user, first, 10))
    await ledger.seal()
    return ledger


async def test_a_sealed_ledger_verifies_while_it_is_in_use(sealed_ledger: LedgerHarness) -> None:
    await sealed_ledger.grant(uuid4(), 5)
    report = await verify(sealed_ledger.engine)
    assert report.sound
    assert (report.sealed_postings, report.unsealed_postings) == (10, 2)


async def test_the_auditor_can_verify_with_read_only_rights(sealed_ledger: LedgerHarness, database: Database) -> None:
    assert (await verify(database.engine("auditor"))).sound


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("UPDATE billing.balance_ledger SET amount_credits = amount_credits + 1 WHERE posting_id = 3", "edited"),
        ("UPDATE billing.balance_ledger SET note = 'x' WHERE posting_id = 3", "edited"),
        (
            "UPDATE billing.balance_ledger SET occurred_at = occurred_at + interval '1 us' WHERE posting_id = 3",
            "edited",
        ),
        ("UPDATE billing.balance_ledger SET user_id = gen_random_uuid() WHERE posting_id = 3", "edited"),
        ("DELETE FROM billing.balance_ledger WHERE posting_id = 3", "removed"),
        ("DELETE FROM billing.balance_ledger WHERE posting_id = 10", "removed"),
    ],
)
async def test_a_change_of_a_sealed_row_is_named(
    sealed_ledger: LedgerHarness, database: Database, change: str, kind: str
) -> None:
    await database.tamper(change)
    report = await verify(sealed_ledger.engine)
    number = change.rsplit(" ", 1)[1]
    assert _named(report) == [(kind, f"posting {number}")]
    assert not report.sound


INSERTED = (
    "INSERT INTO billing.balance_ledger (posting_id, transfer_id, account, amount_credits, reason, grant_id, "
    "occurred_at) OVERRIDING SYSTEM VALUE VALUES (3, gen_random_uuid(), 'platform:issued', -5, 'goodwill', "
    "gen_random_uuid(), now())"
)


async def test_a_row_inserted_into_the_place_of_another_is_named(
    sealed_ledger: LedgerHarness, database: Database
) -> None:
    await database.tamper("DELETE FROM billing.balance_ledger WHERE posting_id = 3", INSERTED)
    assert _named(await verify(sealed_ledger.engine)) == [("edited", "posting 3")]


async def test_a_row_inserted_into_a_gap_is_named(ledger: LedgerHarness, database: Database) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    with pytest.raises(RuntimeError):
        # A rolled back transaction leaves a gap in the ids.
        await ledger.handle(_reserve_and_fail, order(user, 10))
    await ledger.reserve(user, 10)
    await ledger.seal()
    assert (await verify(ledger.engine)).sound
    await database.tamper(INSERTED)
    assert _named(await verify(ledger.engine)) == [("inserted", "posting 3")]


async def _reserve_and_fail(transaction: object, batch: Sequence[object]) -> None:
    await handlers.reserve(transaction, batch)  # type: ignore[arg-type]
    raise RuntimeError("a bug after the write")


async def test_a_row_inserted_after_the_last_seal_is_counted_and_named_by_an_invariant(
    sealed_ledger: LedgerHarness, database: Database
) -> None:
    await database.tamper(INSERTED.replace("(3, gen_random_uuid()", "(11, gen_random_uuid()"))
    await Sealer(sealed_ledger.engine).seal()
    assert REGISTRY.get_sample_value("billing_postings_unsealed") == 1
    report = await verify(sealed_ledger.engine)
    assert report.findings == []
    assert any("postings 11" in violation.detail for violation in report.violations)


async def test_an_edited_seal_is_named(sealed_ledger: LedgerHarness, database: Database) -> None:
    await database.tamper(
        "UPDATE billing.ledger_seals SET leaf_hashes = set_byte(leaf_hashes, 40, 255 - get_byte(leaf_hashes, 40))",
    )
    assert ("seal", "seal 1") in _named(await verify(sealed_ledger.engine))


async def test_a_chain_that_was_rewritten_as_a_whole_is_found_with_an_exported_head(
    sealed_ledger: LedgerHarness, database: Database
) -> None:
    exported = (await verify(sealed_ledger.engine)).head
    assert (await verify(sealed_ledger.engine, exported)).sound
    await database.tamper(
        "UPDATE billing.balance_ledger SET note = 'x' WHERE posting_id = 3",
        "DELETE FROM billing.ledger_seals",
    )
    await sealed_ledger.seal()
    assert (await verify(sealed_ledger.engine)).sound
    assert [finding.kind for finding in (await verify(sealed_ledger.engine, exported)).findings] == ["head"]


async def test_an_exported_head_stays_valid_as_the_chain_grows(sealed_ledger: LedgerHarness) -> None:
    exported = (await verify(sealed_ledger.engine)).head
    await sealed_ledger.grant(uuid4(), 5)
    assert (await sealed_ledger.seal()).seal_number == 2
    assert (await verify(sealed_ledger.engine, exported)).sound


async def test_a_removed_seal_is_named(sealed_ledger: LedgerHarness, database: Database) -> None:
    await sealed_ledger.grant(uuid4(), 5)
    await sealed_ledger.seal()
    await database.tamper("DELETE FROM billing.ledger_seals WHERE seal_number = 1")
    assert ("seal", "seal 1") in _named(await verify(sealed_ledger.engine))


async def _seals_all(ledger: LedgerHarness, sealer: Sealer, postings: int) -> None:
    async def caught_up() -> bool:
        return (await sealer.seal()).through_posting_id >= postings

    await eventually(caught_up)
    report = await verify(ledger.engine)
    assert report.sound
    assert report.sealed_postings == postings


async def test_nothing_is_sealed_past_a_transaction_that_is_still_running(ledger: LedgerHarness) -> None:
    user, other = uuid4(), uuid4()
    await ledger.grant(user, 100)
    await ledger.grant(other, 100)
    sealer = Sealer(ledger.engine)
    async with ledger.transactions.begin() as slow:
        await handlers.reserve(slow, [received(order(user, 10))])
        # A later transaction takes later posting ids and commits first.
        await ledger.reserve(other, 10)
        for _ in range(4):
            assert (await sealer.seal()).through_posting_id <= 4
    await _seals_all(ledger, sealer, 8)


async def test_ids_that_a_restored_server_hands_out_again_are_not_sealed_early(own_postgres: PostgresServer) -> None:
    database = await DatabaseFactory(own_postgres).make(("billing",))
    ledger = LedgerHarness(database.engine("billing"))
    user, other = uuid4(), uuid4()
    await ledger.grant(user, 100)
    await ledger.grant(other, 100)
    await ledger.seal()
    await database.dispose()
    connection = await asyncpg.connect(own_postgres.dsn())
    await connection.execute(f"CREATE DATABASE earlier TEMPLATE {database.name}")
    await ledger.reserve(user, 10)
    await ledger.reserve(other, 10)
    sealer = Sealer(ledger.engine)
    assert (await sealer.seal()).through_posting_id == 4
    await database.dispose()
    await connection.execute(f"DROP DATABASE {database.name} WITH (FORCE)")
    await connection.execute(f"ALTER DATABASE earlier RENAME TO {database.name}")
    await connection.close()
    await own_postgres.stop()
    await own_postgres.start()
    async with ledger.transactions.begin() as slow:
        await handlers.reserve(slow, [received(order(user, 10))])
        await ledger.reserve(other, 10)
        for _ in range(3):
            assert (await sealer.seal()).through_posting_id <= 4
    await _seals_all(ledger, sealer, 8)
    await database.dispose()


async def test_two_sealers_extend_one_chain(
    ledger: LedgerHarness, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealer_module, "POSTINGS_PER_SEAL", 3)
    sealers = [Sealer(ledger.engine), Sealer(database.engine("billing"))]
    for _ in range(10):
        await ledger.grant(uuid4(), 5)
        for sealer in sealers:
            await sealer.seal()
    head = await ledger.seal()
    report = await verify(ledger.engine)
    assert report.sound
    assert (report.head, report.sealed_postings, report.unsealed_postings) == (head, 20, 0)
