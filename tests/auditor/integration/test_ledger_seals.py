"""The ledger against its seals, continuously: whoever edits it as a superuser is found out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor import ledger_seals
from auditor.checker import Checker
from auditor.ledger_seals import CODE, SealVerifier
from billing.sealing.sealer import Sealer
from service_runtime.database import engine_for
from tests.auditor.world import SERVICES
from tests.billing.ledger import Ledger
from tests.support import eventually
from tests.support.databases import Database

UNGUARDED = "SET LOCAL session_replication_role = replica"


@pytest.fixture
async def database(make_database: Callable[..., Awaitable[Database]]) -> Database:
    return await make_database(*SERVICES)


@pytest.fixture
async def ledger(database: Database) -> Ledger:
    """Six transfers of one user, each under a seal of its own."""
    ledger = Ledger(database.engine("billing"))
    user = uuid4()
    for amount in range(1, 7):
        await ledger.grant(user, amount, note="welcome")
        await seal(ledger)
    return ledger


@pytest.fixture
async def verifier(database: Database) -> AsyncIterator[SealVerifier]:
    engine = engine_for(database.dsn("auditor"), application_name="test", pool_size=2)
    yield SealVerifier(engine, engine)
    await engine.dispose()


async def seal(ledger: Ledger) -> None:
    sealer = Sealer(ledger.engine)
    newest = await ledger.scalar("SELECT max(posting_id) FROM billing.balance_ledger")

    async def sealed() -> bool:
        return (await sealer.seal()).through_posting_id >= newest

    await eventually(sealed)


async def a_whole_pass(verifier: SealVerifier) -> None:
    """Rounds until the end of the chain was reached once."""
    before = passed_at()
    while passed_at() == before:
        await verifier.run_round()


def passed_at() -> float:
    return REGISTRY.get_sample_value("auditor_last_ledger_pass_timestamp_seconds") or 0.0


def counted() -> float | None:
    return REGISTRY.get_sample_value("auditor_violations", {"invariant": CODE, "severity": "critical"})


async def tamper(database: Database, *statements: str) -> None:
    async with database.superuser_engine().begin() as connection:
        await connection.execute(text(UNGUARDED))
        for statement in statements:
            assert (await connection.execute(text(statement))).rowcount >= 1


async def open_findings(database: Database) -> dict[str, str]:
    query = text("SELECT subject_key, found FROM auditor.findings WHERE code = :code AND resolved_at IS NULL")
    async with database.superuser_engine().connect() as connection:
        return {row.subject_key: row.found for row in await connection.execute(query, {"code": CODE})}


async def transfer_of(database: Database, posting_id: int) -> UUID:
    query = text("SELECT transfer_id FROM billing.balance_ledger WHERE posting_id = :id")
    async with database.superuser_engine().connect() as connection:
        return UUID(str(await connection.scalar(query, {"id": posting_id})))


@pytest.mark.parametrize(
    "edit", ["amount_credits = amount_credits + 1", "note = 'edited'", "occurred_at = occurred_at + interval '1 s'"]
)
@pytest.mark.parametrize("seals_per_round", [1, 4, 200])
async def test_an_edited_posting_is_a_finding_under_its_transfer_and_closes_when_it_is_put_right(
    database: Database,
    ledger: Ledger,
    verifier: SealVerifier,
    monkeypatch: pytest.MonkeyPatch,
    edit: str,
    seals_per_round: int,
) -> None:
    monkeypatch.setattr(ledger_seals, "SEALS_PER_ROUND", seals_per_round)
    await a_whole_pass(verifier)
    assert (await open_findings(database), counted()) == ({}, 0)
    before = f"CREATE TABLE kept AS SELECT * FROM billing.balance_ledger WHERE posting_id = {(posting := 11)}"
    await tamper(database, before, f"UPDATE billing.balance_ledger SET {edit} WHERE posting_id = {posting}")
    await a_whole_pass(verifier)
    [(subject, found)] = (await open_findings(database)).items()
    assert subject == str(await transfer_of(database, posting))
    assert "was edited after seal 6" in found
    assert counted() == 1
    async with database.superuser_engine().connect() as connection:
        await Checker(connection.engine, connection.engine, 0.0).check_now()
    assert list(await open_findings(database)) == [subject], "the other checks leave it open"
    await tamper(
        database,
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
    database: Database, ledger: Ledger, verifier: SealVerifier, statement: str, found: str
) -> None:
    if statement.startswith("INSERT"):
        await tamper(database, "DELETE FROM billing.ledger_seals WHERE seal_number >= 3")
    await tamper(database, statement)
    await a_whole_pass(verifier)
    assert any(found in said for said in (await open_findings(database)).values())


async def test_a_chain_that_was_made_anew_after_an_edit_lacks_the_link_that_was_seen(
    database: Database, ledger: Ledger, verifier: SealVerifier
) -> None:
    await a_whole_pass(verifier)
    await tamper(
        database,
        "UPDATE billing.balance_ledger SET note = 'edited' WHERE posting_id = 1",
        "DELETE FROM billing.ledger_seals",
    )
    await seal(ledger)
    await a_whole_pass(verifier)
    assert await open_findings(database) == {
        "seal 6": "seal 6 is not the one that was seen here before: the chain was made anew"
    }


async def test_a_ledger_in_use_has_no_finding(database: Database, ledger: Ledger, verifier: SealVerifier) -> None:
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


async def test_a_round_is_bounded_in_seals_and_in_postings(
    database: Database, ledger: Ledger, verifier: SealVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_seals, "POSTINGS_PER_ROUND", 5)
    rounds = 0
    before = passed_at()
    while passed_at() == before:
        await verifier.run_round()
        rounds += 1
    assert rounds == 4, "two seals of two postings at a time, and the end"


async def test_the_auditor_may_not_change_what_it_has_seen(database: Database) -> None:
    engine: AsyncEngine = database.engine("auditor")
    async with engine.connect() as connection:
        for privilege, allowed in (("INSERT", True), ("UPDATE", False), ("DELETE", False)):
            query = text(f"SELECT has_table_privilege('auditor.ledger_heads', '{privilege}')")
            assert await connection.scalar(query) is allowed
