"""The operator's commands, as an operator runs them."""

import re
from uuid import uuid4

from messaging.ids import new_id
from tests.billing.ledger_harness import LedgerHarness
from tests.support.databases import Database
from tests.support.fork_server import Finished, run_forked


async def _run(database: Database, *arguments: str) -> Finished:
    if arguments[0] == "grant" and "--wait-seconds" not in arguments:
        arguments = (*arguments, "--wait-seconds", "0")
    return await run_forked("billing.main", *arguments, environment={"BILLING_DATABASE_URL": database.dsn("billing")})


async def test_an_operator_grants_once_however_often_the_command_is_run(
    ledger: LedgerHarness, database: Database
) -> None:
    user, grant_id = uuid4(), new_id()
    command = ("grant", "--user", str(user), "--credits", "50", "--reason", "goodwill", "--actor", "Ada")
    first = await _run(database, *command, "--note", "sorry", "--grant-id", str(grant_id))
    again = await _run(database, *command, "--note", "sorry", "--grant-id", str(grant_id))
    assert (first.code, again.code) == (0, 0)
    assert "made before" not in first.output
    assert "made before" in again.output
    assert await ledger.balance(user) == (50, 0, 0)
    recorded = "SELECT actor FROM billing.operator_grants WHERE grant_id = :grant_id"
    assert await ledger.scalar(recorded, grant_id=grant_id) == "Ada"
    waiting = "SELECT count(*) FROM billing.outbox_messages WHERE subject = 'billing.event.credits-granted.v1'"
    assert await ledger.scalar(waiting) == 1


async def test_an_operator_learns_the_id_of_a_grant_even_if_the_database_goes_away(database: Database) -> None:
    command = ("grant", "--user", str(uuid4()), "--credits", "50", "--reason", "goodwill", "--actor", "Ada")
    nowhere = {"BILLING_DATABASE_URL": "postgresql://billing:x@127.0.0.1:1/none"}
    outcome = await run_forked("billing.main", *command, environment=nowhere)
    assert outcome.code != 0
    assert re.search(r"granting under the id [0-9a-f-]{36}: .*--grant-id", outcome.output)


async def test_a_grant_that_nothing_publishes_is_made_and_called_not_visible(
    ledger: LedgerHarness, database: Database
) -> None:
    user = uuid4()
    command = ("grant", "--user", str(user), "--credits", "50", "--reason", "goodwill", "--actor", "Ada")
    outcome = await _run(database, *command, "--wait-seconds", "0.1")
    assert outcome.code == 0
    assert "not visible yet" in outcome.output
    assert await ledger.balance(user) == (50, 0, 0)
    assert (await _run(database, *command, "--wait-seconds", "301")).code == 2


async def test_a_grant_id_used_for_another_grant_is_refused_with_the_reason(
    ledger: LedgerHarness, database: Database
) -> None:
    user, grant_id = uuid4(), new_id()
    command = ("grant", "--user", str(user), "--reason", "signup", "--actor", "Ada", "--grant-id", str(grant_id))
    await _run(database, *command, "--credits", "50")
    outcome = await _run(database, *command, "--credits", "51")
    assert outcome.code == 1
    assert "conflicting_grant" in outcome.errors
    assert await ledger.balance(user) == (50, 0, 0)


async def test_an_operator_cannot_grant_more_than_the_largest_amount(ledger: LedgerHarness, database: Database) -> None:
    user = uuid4()
    command = ("grant", "--user", str(user), "--reason", "goodwill", "--actor", "Ada", "--credits")
    for too_much in (str(2**63 - 1), "1000000001", "0", "-1"):
        outcome = await _run(database, *command, too_much)
        assert outcome.code == 2
        assert "1 to 1,000,000,000" in outcome.errors
    assert (await _run(database, *command, "7")).code == 0
    assert await ledger.balance(user) == (7, 0, 0)


async def test_an_expiry_without_a_time_zone_is_refused(database: Database) -> None:
    command = ("grant", "--user", str(uuid4()), "--credits", "5", "--reason", "signup", "--actor", "Ada")
    outcome = await _run(database, *command, "--expires-at", "2027-01-31T00:00:00")
    assert outcome.code == 2
    assert "zone" in outcome.errors


async def test_verify_passes_on_a_sound_ledger_and_names_a_tampered_row(
    ledger: LedgerHarness, database: Database
) -> None:
    await ledger.grant(uuid4(), 50)
    await ledger.seal()
    head = await _run(database, "seal-head")
    sound = await _run(database, "verify", "--head", head.output.strip())
    assert (sound.code, sound.errors) == (0, "")
    assert f"head {head.output.strip()}" in sound.output
    await database.tamper("UPDATE billing.balance_ledger SET note = 'x' WHERE posting_id = 2")
    tampered = await _run(database, "verify")
    assert tampered.code == 1
    assert "TAMPERED: posting 2 " in tampered.output
