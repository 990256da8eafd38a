"""The ledger against its seals, continuously: an edit as superuser is found."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.domain import LEDGER_SEALS_CODE
from auditor.loops import seal_verifier
from auditor.loops.checker import Checker
from auditor.loops.seal_verifier import SealVerifier
from auditor.metrics import LAST_LEDGER_PASS_AT, VIOLATIONS
from billing.loops.sealer import Sealer
from local_platform.servers import NatsServer
from service_runtime.database import engine_for
from tests.auditor.integration.test_service import replica
from tests.billing.ledger_harness import LedgerHarness
from tests.support import eventually
from tests.support.databases import Database


@pytest.fixture
async def ledger(database: Database) -> LedgerHarness:
    """Six transfers of one user, each under a seal of its own."""
    ledger = LedgerHarness(database.engine("billing"))
    user = uuid4()
    for amount in range(1, 7):
        await ledger.grant(user, amount, note="welcome")
        await ledger.seal()
    return ledger


@pytest.fixture
async def verifier(database: Database) -> AsyncIterator[SealVerifier]:
    engine = engine_for(database.dsn("auditor"), application_name="test", pool_size=2)
    yield SealVerifier(engine, engine)
    await engine.dispose()


def restarted(database: Database) -> SealVerifier:
    """A verifier that knows only what is in the database."""
    return SealVerifier(database.engine("auditor"), database.engine("auditor"))


async def a_whole_pass(verifier: SealVerifier) -> None:
    """Rounds until the end of the chain was reached once."""
    began = time.time()
    while passed_at() < began:
        await verifier.run_round()


def passed_at() -> float:
    return REGISTRY.get_sample_value("auditor_last_ledger_pass_timestamp_seconds") or 0.0


def counted() -> float | None:
    return REGISTRY.get_sample_value("auditor_violations", {"invariant": LEDGER_SEALS_CODE, "severity": "critical"})


async def open_findings(database: Database) -> dict[str, str]:
    query = text(
        "SELECT subject_key, found FROM auditor.findings WHERE code = :code AND resolved_at IS NULL ORDER BY finding_id"
    )
    async with database.superuser_engine().connect() as connection:
        return {row.subject_key: row.found for row in await connection.execute(query, {"code": LEDGER_SEALS_CODE})}


async def remembered(database: Database) -> list[int]:
    async with database.superuser_engine().connect() as connection:
        rows = await connection.scalars(text("SELECT seal_number FROM auditor.ledger_heads ORDER BY seal_number"))
        return list(rows)


def inserted(posting_id: int, count: int = 1) -> list[str]:
    """Statements that put copies of the first posting in, from ``posting_id`` on."""
    return [
        f"CREATE TABLE forged AS SELECT * FROM billing.balance_ledger, generate_series(1, {count}) AS n"
        " WHERE posting_id = 1",
        f"UPDATE forged SET posting_id = {posting_id} + n - 1, transfer_id = gen_random_uuid(), line_number = 100 + n",
        "ALTER TABLE forged DROP COLUMN n",
        "INSERT INTO billing.balance_ledger OVERRIDING SYSTEM VALUE SELECT * FROM forged",
    ]


async def leave_a_gap(database: Database, ids: int) -> None:
    """What transactions that are rolled back leave: ids that no posting has. The next seal covers them."""
    query = text("SELECT nextval('billing.balance_ledger_posting_id_seq') FROM generate_series(1, :ids)")
    async with database.superuser_engine().connect() as connection:
        await connection.execute(query, {"ids": ids})


async def transfer_of(database: Database, posting_id: int) -> UUID:
    query = text("SELECT transfer_id FROM billing.balance_ledger WHERE posting_id = :id")
    async with database.superuser_engine().connect() as connection:
        return UUID(str(await connection.scalar(query, {"id": posting_id})))


@pytest.mark.parametrize(
    "edit",
    [
        "amount_credits = amount_credits + 1",
        "note = 'edited'",
        "occurred_at = occurred_at + interval '1 s'",
        # No driver can represent these.
        "occurred_at = '0044-03-15 BC'",
        "occurred_at = 'infinity'",
    ],
)
@pytest.mark.parametrize("seals_per_round", [1, 4, 200])
async def test_an_edited_posting_is_a_finding_until_it_is_put_right(
    database: Database,
    ledger: LedgerHarness,
    verifier: SealVerifier,
    monkeypatch: pytest.MonkeyPatch,
    edit: str,
    seals_per_round: int,
) -> None:
    monkeypatch.setattr(seal_verifier, "SEALS_PER_ROUND", seals_per_round)
    await a_whole_pass(verifier)
    assert (await open_findings(database), counted()) == ({}, 0)
    before = f"CREATE TABLE kept AS SELECT * FROM billing.balance_ledger WHERE posting_id = {(posting := 11)}"
    await database.tamper(before, f"UPDATE billing.balance_ledger SET {edit} WHERE posting_id = {posting}")
    await a_whole_pass(verifier)
    [(subject, found)] = (await open_findings(database)).items()
    assert subject == str(await transfer_of(database, posting))
    assert "was edited after seal 6" in found
    assert counted() == 1
    async with database.superuser_engine().connect() as connection:
        await Checker(connection.engine, connection.engine, 0.0).check_now()
    assert list(await open_findings(database)) == [subject], "the other checks leave it open"
    await database.tamper(
        "UPDATE billing.balance_ledger AS b SET amount_credits = k.amount_credits, note = k.note,"
        " occurred_at = k.occurred_at FROM kept AS k WHERE b.posting_id = k.posting_id",
    )
    await a_whole_pass(verifier)
    assert (await open_findings(database), counted()) == ({}, 0)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM billing.balance_ledger WHERE posting_id = 3", "posting 3 was removed"),
        ("UPDATE billing.ledger_seals SET through_posting_id = 7 WHERE seal_number = 3", "seal 3 was edited"),
        ("DELETE FROM billing.ledger_seals WHERE seal_number = 2", "seal 2 is missing"),
        (
            "INSERT INTO billing.ledger_seals SELECT 3, 5, 6, posting_ids, leaf_hashes, previous_hash, seal_hash, now()"
            " FROM billing.ledger_seals WHERE seal_number = 2",
            "seal 3 does not continue seal 2",
        ),
    ],
)
async def test_what_was_removed_or_put_into_the_chain_is_a_finding(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier, statement: str, found: str
) -> None:
    if statement.startswith("INSERT"):
        await database.tamper("DELETE FROM billing.ledger_seals WHERE seal_number >= 3")
    await database.tamper(statement)
    await a_whole_pass(verifier)
    assert any(found in said for said in (await open_findings(database)).values())


async def test_the_postings_of_a_seal_that_is_missing_are_accused_of_nothing(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier
) -> None:
    await database.tamper("DELETE FROM billing.ledger_seals WHERE seal_number = 2")
    await a_whole_pass(verifier)
    assert await open_findings(database) == {"seal 2": "seal 2 is missing"}


async def test_a_posting_that_was_put_in_is_a_finding_under_its_transfer(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier
) -> None:
    await leave_a_gap(database, 1)
    await ledger.grant(uuid4(), 7)
    await ledger.seal()
    await a_whole_pass(verifier)
    assert await open_findings(database) == {}
    await database.tamper(*inserted(13))
    await a_whole_pass(verifier)
    transfer = await transfer_of(database, 13)
    assert await open_findings(database) == {
        str(transfer): f"posting 13 (transfer {transfer}, user:available) was inserted after seal 7 closed its range"
    }


async def test_a_flood_of_postings_that_were_put_in_hides_no_other_and_accuses_no_other(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal_verifier, "LISTED", 10)
    await leave_a_gap(database, 30)
    await ledger.grant(user := uuid4(), 7)
    await ledger.seal()
    await ledger.grant(user, 7)
    await ledger.seal()
    await database.tamper("UPDATE billing.balance_ledger SET note = 'edited' WHERE posting_id = 46")
    await a_whole_pass(verifier)
    edited = str(await transfer_of(database, 46))
    assert list(await open_findings(database)) == [edited]
    await database.tamper(*inserted(13, 30))
    await a_whole_pass(verifier)
    said = await open_findings(database)
    assert said.pop(edited), "not listed any more, and not resolved"
    assert len(said) == 10
    assert all("was inserted after seal 7" in found for found in said.values())
    # Two sealed, ten that are listed and one more are read of the range; then there is the edited one.
    assert counted() == 13 + 1
    await database.tamper("DELETE FROM billing.balance_ledger WHERE posting_id BETWEEN 13 AND 42")
    await a_whole_pass(verifier)
    assert list(await open_findings(database)) == [edited]
    assert counted() == 1


async def test_a_chain_that_was_made_anew_after_an_edit_lacks_the_link_that_was_seen(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier
) -> None:
    await a_whole_pass(verifier)
    await database.tamper(
        "UPDATE billing.balance_ledger SET note = 'edited' WHERE posting_id = 1",
        "DELETE FROM billing.ledger_seals",
    )
    await ledger.seal()
    await a_whole_pass(restarted(database))
    assert await open_findings(database) == {
        "seal 6": "seal 6 is not the one that was seen here before: the chain was made anew"
    }
    async with database.engine("auditor_migrator").begin() as connection:
        await connection.execute(text("DELETE FROM auditor.ledger_heads WHERE seal_number = 6"))
    await a_whole_pass(restarted(database))
    assert await open_findings(database) == {}
    await a_whole_pass(verifier)
    assert list(await open_findings(database)) == ["seal 6"], "one that was not restarted remembers"


async def test_a_link_that_is_newer_than_the_head_in_the_database_is_missed_too(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier
) -> None:
    await a_whole_pass(verifier)
    await ledger.grant(uuid4(), 7)
    await ledger.seal()
    await a_whole_pass(verifier)
    assert await remembered(database) == [6], "one an hour"
    await database.tamper(
        "UPDATE billing.balance_ledger SET note = 'edited' WHERE posting_id = 13",
        "DELETE FROM billing.ledger_seals WHERE seal_number = 7",
    )
    await ledger.seal()
    await a_whole_pass(verifier)
    assert list(await open_findings(database)) == ["seal 7"]


async def test_a_chain_cut_off_with_its_postings_lacks_the_link_that_was_seen(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier
) -> None:
    await a_whole_pass(verifier)
    await database.tamper(
        "DELETE FROM billing.balance_ledger WHERE posting_id > 8",
        "DELETE FROM billing.ledger_seals WHERE seal_number > 4",
    )
    await a_whole_pass(verifier)
    assert list(await open_findings(database)) == ["seal 6"]


async def test_heads_are_remembered_after_an_edited_posting_but_not_an_edited_seal(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier
) -> None:
    kept = "CREATE TABLE kept AS SELECT seal_hash FROM billing.ledger_seals WHERE seal_number = 6"
    edited = "UPDATE billing.ledger_seals SET seal_hash = sha256('x') WHERE seal_number = 6"
    await database.tamper(kept, edited, "UPDATE billing.balance_ledger SET note = 'edited' WHERE posting_id = 1")
    await a_whole_pass(verifier)
    assert await remembered(database) == []
    restored = "UPDATE billing.ledger_seals SET seal_hash = kept.seal_hash FROM kept WHERE seal_number = 6"
    await database.tamper(restored)
    await a_whole_pass(verifier)
    assert await remembered(database) == [6]
    assert list(await open_findings(database)) == [str(await transfer_of(database, 1))]


async def test_findings_open_before_the_pass_ends_and_count_from_its_start(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal_verifier, "SEALS_PER_ROUND", 1)
    await database.tamper("UPDATE billing.balance_ledger SET note = 'edited' WHERE posting_id IN (4, 6)")
    edited = [str(await transfer_of(database, posting)) for posting in (4, 6)]
    before = passed_at()
    for opened in ([], edited[:1], edited):
        await verifier.run_round()
        assert list(await open_findings(database)) == opened
        assert (counted(), passed_at()) == (len(opened), before)

    VIOLATIONS.labels(LEDGER_SEALS_CODE, "critical").set(0)
    await restarted(database).run_round()
    assert counted() == 2


async def test_after_a_restart_the_last_pass_counts_until_the_next_has_ended(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time()
    await a_whole_pass(verifier)
    LAST_LEDGER_PASS_AT.set(0)
    monkeypatch.setattr(seal_verifier, "SEALS_PER_ROUND", 1)
    again = restarted(database)
    await again.run_round()
    last = passed_at()
    assert began - 1 < last <= time.time()
    await a_whole_pass(again)
    assert passed_at() > last


async def test_what_a_round_found_and_could_not_write_is_written_by_the_next(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal_verifier, "SEALS_PER_ROUND", 1)
    await database.tamper("UPDATE billing.balance_ledger SET note = 'edited' WHERE posting_id = 2")
    superuser = database.superuser_engine()
    async with superuser.begin() as connection:
        await connection.execute(text("REVOKE INSERT ON auditor.findings FROM auditor"))
    with pytest.raises(DBAPIError):
        await verifier.run_round()
    async with superuser.begin() as connection:
        await connection.execute(text("GRANT INSERT ON auditor.findings TO auditor"))
    await verifier.run_round()
    assert list(await open_findings(database)) == [str(await transfer_of(database, 2))]


async def test_a_ledger_in_use_has_no_finding(
    database: Database, ledger: LedgerHarness, verifier: SealVerifier
) -> None:
    over = asyncio.Event()

    async def write() -> None:
        user = uuid4()
        while not over.is_set():
            await ledger.grant(user, 1)

    async def seal_on() -> None:
        sealer = Sealer(database.engine("billing"))
        while not over.is_set():
            await sealer.seal()

    using = [asyncio.create_task(write()), asyncio.create_task(write()), asyncio.create_task(seal_on())]
    for _ in range(20):
        await verifier.run_round()
    over.set()
    await asyncio.gather(*using)
    await a_whole_pass(verifier)
    assert (await open_findings(database), counted()) == ({}, 0)


@pytest.mark.parametrize(
    ("seals", "postings", "expected"),
    [
        pytest.param(4, 200, 3, id="four seals, two, and the end"),
        pytest.param(200, 5, 4, id="two seals of two postings at a time, and the end"),
        pytest.param(200, 1, 7, id="a seal that has more is a round of its own"),
    ],
)
async def test_a_round_is_bounded_in_seals_and_in_postings(
    database: Database,
    ledger: LedgerHarness,
    verifier: SealVerifier,
    monkeypatch: pytest.MonkeyPatch,
    seals: int,
    postings: int,
    expected: int,
) -> None:
    monkeypatch.setattr(seal_verifier, "SEALS_PER_ROUND", seals)
    monkeypatch.setattr(seal_verifier, "POSTINGS_PER_ROUND", postings)
    rounds = 0
    before = passed_at()
    while passed_at() == before:
        await verifier.run_round()
        rounds += 1
    assert rounds == expected


async def test_the_running_service_names_an_edited_posting(
    database: Database, ledger: LedgerHarness, nats_server: NatsServer
) -> None:
    await database.tamper("UPDATE billing.balance_ledger SET note = 'edited' WHERE posting_id = 11")
    transfer = str(await transfer_of(database, 11))

    metric = f'auditor_violations{{invariant="{LEDGER_SEALS_CODE}",severity="critical"}} 1.0'
    async with replica(database, nats_server) as auditor:

        async def named() -> bool:
            return list(await open_findings(database)) == [transfer] and metric in await auditor.metrics()

        await eventually(named, timeout=30)


async def test_the_auditor_may_not_change_what_it_has_seen(database: Database) -> None:
    engine: AsyncEngine = database.engine("auditor")
    async with engine.connect() as connection:
        for privilege, allowed in (("INSERT", True), ("UPDATE", False), ("DELETE", False)):
            query = text(f"SELECT has_table_privilege('auditor.ledger_heads', '{privilege}')")
            assert await connection.scalar(query) is allowed
