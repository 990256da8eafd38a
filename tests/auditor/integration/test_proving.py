"""What is proven stays proven: violations before the watermark, across it, in the future, and by a late commit.

A round without time for a pass shows what is found at once, however long the history is. Only a pass finds the rest.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from auditor.domain import Violation
from auditor.portions import SCOPES
from auditor.proving import Prover, Round
from auditor.repository.findings import OpenFinding, add_findings, resolve_unseen
from auditor.repository.proofs import WORTH_PROVING, Pass, find_passes, put_passes
from billing import handlers
from contracts.billing import GrantCredits
from contracts.generation import GenerationCompleted
from contracts.message import SERVICES, Message, Service
from messaging.ids import FIRST_ID, first_id_at, new_id
from tests.auditor.platform_harness import PlatformHarness, name_of
from tests.billing.ledger_harness import LedgerHarness, grant, order, received
from tests.support.waiting import eventually

AT_REST = 0.0
MOMENT = 60.0
ENOUGH_SECONDS = 60.0
ONE_PORTION = 1e-9

NEW_LEG = """
    INSERT INTO billing.balance_ledger (posting_id, transfer_id, account, amount_credits, reason, user_id, line_number,
                                        generation_id, occurred_at)
    OVERRIDING SYSTEM VALUE
    SELECT {posting_id}, {transfer_id}, 'platform:expired', 1, 'expiry', NULL, NULL, generation_id, now()
    FROM billing.balance_ledger WHERE generation_id = '{{delivered}}' AND reason = 'reserve' LIMIT 1
"""


@dataclass(frozen=True)
class ProofHarness:
    """Rounds over a platform. ``news`` have no time for a pass."""

    platform: PlatformHarness
    engine: AsyncEngine

    def prover(self, pass_seconds: float, tolerance_seconds: float = AT_REST) -> Prover:
        return Prover(self.engine, self.engine, tolerance_seconds, pass_seconds)

    async def news(self) -> Round:
        return await self.prover(0).prove()

    async def whole(self) -> Round:
        return await self.prover(ENOUGH_SECONDS).prove()

    async def settle(self) -> None:
        """Everything that there is, is proven, and old."""
        proven = await self.whole()
        assert proven.report.total == 0
        assert proven.report.unproven == ()
        await self.news()
        await self.news()
        await self.platform.corrupt("UPDATE auditor.proof_watermark SET noted_at = clock_timestamp()")

    async def scalar(self, query: str) -> Any:
        async with self.engine.connect() as connection:
            return await connection.scalar(text(query))


@pytest.fixture
async def proof(platform: PlatformHarness, auditor: AsyncEngine) -> ProofHarness:
    harness = ProofHarness(platform, auditor)
    await harness.settle()
    return harness


@pytest.fixture
def ledger(platform: PlatformHarness) -> LedgerHarness:
    return LedgerHarness(platform.database.engine("billing"))


def named(proven: Round, code: str) -> set[str]:
    """The subjects that a round names."""
    return {one.subject for one in proven.report.violations if one.code == code}


async def test_a_violation_in_new_activity_is_found_by_the_next_round(
    proof: ProofHarness, ledger: LedgerHarness
) -> None:
    generation_id = await ledger.reserve(proof.platform.other_user, 5)
    proven = await proof.news()
    # No request of the gateway stands behind it, and nobody is shown it.
    assert named(proven, "verdicts_have_their_request") == {str(generation_id)}
    assert named(proven, "statements_show_the_ledger") == {str(proof.platform.other_user)}
    assert "verdicts_have_their_request" in proven.open_findings


async def test_a_grant_that_was_announced_and_not_posted_is_found_by_the_next_round(
    proof: ProofHarness, ledger: LedgerHarness
) -> None:
    gift = await ledger.grant(proof.platform.user, 5)
    await proof.platform.corrupt(f"DELETE FROM billing.balance_ledger WHERE grant_id = '{gift.grant_id}'")
    assert named(await proof.news(), "grants_are_posted_once") == {str(gift.grant_id)}


async def test_a_change_of_what_was_proven_is_found_by_the_pass(proof: ProofHarness) -> None:
    await proof.platform.corrupt(
        "UPDATE generation.video_generations SET price_credits = 7 WHERE generation_id = '{failed}'",
        "UPDATE billing.grants SET amount_credits = 51 WHERE user_id = '{other_user}'",
        "UPDATE payments.payment_transactions SET user_id = '{user}' WHERE payment_id = '{refunded}'",
    )
    assert (await proof.news()).report.total == 0
    # A round goes over one portion: so each scope has its turn within as many rounds as there are scopes.
    prover = proof.prover(ONE_PORTION)
    rounds = [await prover.prove() for _ in SCOPES]
    found = {one.code for proven in rounds for one in proven.report.violations}
    assert {
        "reservations_have_their_generation",
        "grants_are_posted_once",
        "payment_requests_are_answered",
    } <= found


async def test_a_finding_of_a_pass_is_looked_at_again_by_every_round(proof: ProofHarness) -> None:
    damage = (
        "UPDATE generation.video_generations SET price_credits = price_credits {} 7 WHERE generation_id = '{{failed}}'"
    )
    await proof.platform.corrupt(damage.format("+"))
    assert (await proof.whole()).report.total > 0
    assert (await proof.news()).open_findings["reservations_have_their_generation"] == 1
    await proof.platform.corrupt(damage.format("-"))
    proven = await proof.news()
    assert proven.changes.resolved > 0
    assert sum(proven.open_findings.values()) == 0


async def test_a_posting_for_an_old_transfer_is_found_by_the_next_round(proof: ProofHarness) -> None:
    leg = NEW_LEG.format(posting_id="nextval('billing.balance_ledger_posting_id_seq')", transfer_id="transfer_id")
    await proof.platform.corrupt(leg)
    proven = await proof.news()
    assert len(named(proven, "transfers_sum_to_zero")) == 1


async def test_a_posting_under_an_id_of_the_future_hides_nothing(proof: ProofHarness, ledger: LedgerHarness) -> None:
    await proof.platform.corrupt(NEW_LEG.format(posting_id=10**12, transfer_id="gen_random_uuid()"))
    for _ in range(3):
        assert len(named(await proof.news(), "transfers_sum_to_zero")) == 1
    generation_id = await ledger.reserve(proof.platform.other_user, 5)
    assert str(generation_id) in named(await proof.news(), "verdicts_have_their_request")


async def test_a_posting_under_an_old_id_that_was_never_used_is_found_by_the_pass(proof: ProofHarness) -> None:
    async with proof.platform.database.superuser_engine().begin() as connection:
        gap = await connection.scalar(text("SELECT nextval('billing.balance_ledger_posting_id_seq')"))

    async def passed() -> bool:
        await proof.news()
        return bool(await proof.scalar(f"SELECT posting_id >= {gap} FROM auditor.proof_watermark"))

    await eventually(passed, timeout=30, what="a watermark above the gap")
    await proof.platform.corrupt(NEW_LEG.format(posting_id=gap, transfer_id="gen_random_uuid()"))
    assert named(await proof.news(), "transfers_sum_to_zero") == set()
    assert len(named(await proof.whole(), "transfers_sum_to_zero")) == 1


async def test_a_late_commit_is_new_however_old_its_ids_are(proof: ProofHarness, ledger: LedgerHarness) -> None:
    generation_id = new_id()
    async with ledger.transactions.begin() as late:
        await handlers.reserve(late, [received(order(proof.platform.other_user, 5, generation_id))])
        began_at = await late.connection.scalar(text("SELECT now()"))

        async def marks_are_newer() -> bool:
            """Others commit, and rounds note marks that would do, if nothing ran."""
            await ledger.grant(proof.platform.user, 1)
            assert str(generation_id) not in named(await proof.news(), "verdicts_have_their_request")
            query = (
                f"SELECT count(*) FROM auditor.proof_marks WHERE noted_at > '{began_at}'::timestamptz + interval '2 s'"
            )
            return bool(await proof.scalar(query) > 1)

        await eventually(marks_are_newer, timeout=30, what="marks that are newer than the transaction")
        await proof.news()
    assert str(generation_id) in named(await proof.news(), "verdicts_have_their_request")


async def test_a_reader_that_stays_does_not_hold_the_watermark_back(proof: ProofHarness) -> None:
    before = await proof.scalar("SELECT noted_at FROM auditor.proof_watermark")
    async with proof.platform.database.superuser_engine().begin() as backup:
        await backup.execute(text("SELECT count(*) FROM billing.balance_ledger"))

        async def moved() -> bool:
            await proof.news()
            return bool(await proof.scalar("SELECT noted_at FROM auditor.proof_watermark") != before)

        await eventually(moved, timeout=30, what="a watermark that moves")


async def test_a_ledger_that_went_back_takes_the_watermark_back(proof: ProofHarness) -> None:
    await proof.platform.corrupt(
        "DELETE FROM billing.balance_ledger WHERE posting_id = (SELECT max(posting_id) FROM billing.balance_ledger)"
    )
    proven = await proof.news()
    assert {proven.passes[scope].proven_at for scope in proven.passes} == set()
    assert await proof.scalar("SELECT count(*) FROM auditor.proof_watermark") == 0
    # All that is left counts as new.
    assert len(named(proven, "transfers_sum_to_zero")) == 1


async def _many_lines(proof: ProofHarness, ledger: LedgerHarness, user_id: UUID) -> None:
    await ledger.handle(handlers.grant_by_operator, *(grant(user_id, 1, "goodwill") for _ in range(WORTH_PROVING + 10)))
    for _ in range(3):
        await proof.whole()


def _code(check: Callable[[], Awaitable[Round]]) -> Callable[[], Awaitable[set[str]]]:
    async def found() -> set[str]:
        return named(await check(), "balances_equal_postings")

    return found


async def test_many_lines_are_added_up_once_and_again_when_the_sum_is_wrong(
    proof: ProofHarness, ledger: LedgerHarness
) -> None:
    user_id = new_id()
    await _many_lines(proof, ledger, user_id)
    lines = f"SELECT line_number FROM auditor.proven_balances WHERE user_id = '{user_id}'"
    news, whole = _code(proof.news), _code(proof.whole)
    # It is in the finding of what nobody is shown, so it is not proven.
    assert await proof.scalar(lines) is None
    await _show_lines(proof, user_id)
    await proof.whole()
    assert await proof.scalar(lines) == WORTH_PROVING + 10

    damage = f"UPDATE billing.balance_ledger SET amount_credits = {{}} WHERE user_id = '{user_id}' AND line_number = 3"
    await proof.platform.corrupt(damage.format(2))
    await ledger.grant(user_id, 1)
    assert await news() == set()
    assert await whole() == {str(user_id)}
    assert await proof.scalar(lines) is None
    assert await news() == {str(user_id)}

    await proof.platform.corrupt(damage.format(1))
    assert await news() == set()


async def test_a_user_with_a_new_violation_has_no_proven_sum(proof: ProofHarness, ledger: LedgerHarness) -> None:
    user_id = new_id()
    await _many_lines(proof, ledger, user_id)
    await _show_lines(proof, user_id)
    await proof.whole()
    sums = f"SELECT count(*) FROM auditor.proven_balances WHERE user_id = '{user_id}'"
    assert await proof.scalar(sums) == 1
    await ledger.grant(user_id, 1)
    await proof.platform.corrupt(
        f"UPDATE billing.users SET available_credits = available_credits + 1 WHERE user_id = '{user_id}'"
    )
    assert await _code(proof.news)() == {str(user_id)}
    assert await proof.scalar(sums) == 0


async def test_a_finding_that_was_not_listed_stays_open(proof: ProofHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    await proof.platform.corrupt("DELETE FROM storage.assets")
    await proof.whole()
    still_open = "SELECT count(*) FROM auditor.findings WHERE code = 'captures_have_an_asset' AND resolved_at IS NULL"
    before = await proof.scalar(still_open)
    assert before > 1
    monkeypatch.setattr("auditor.proving.LISTED_PER_INVARIANT", 1)
    await proof.news()
    assert await proof.scalar(still_open) == before


async def _show_lines(proof: ProofHarness, user_id: UUID) -> None:
    """As the gateway would."""
    await proof.platform.corrupt(
        f"""
        INSERT INTO gateway.ledger_lines (user_id, line_number, transfer_id, reason, available_delta_credits,
            reserved_delta_credits, receivable_delta_credits, available_after_credits, reserved_after_credits,
            receivable_after_credits, occurred_at)
        SELECT user_id, line_number, transfer_id, reason, amount_credits, 0, 0, line_number, 0, 0, occurred_at
        FROM billing.balance_ledger WHERE user_id = '{user_id}'
        """,
        f"""
        INSERT INTO gateway.balances (user_id, line_number, available_credits, reserved_credits, receivable_credits)
        SELECT user_id, line_number, available_credits, 0, 0 FROM billing.users WHERE user_id = '{user_id}'
        """,
    )


async def test_the_watermark_waits_for_an_invariant_that_cannot_be_evaluated(
    proof: ProofHarness, ledger: LedgerHarness
) -> None:
    noted_at = "SELECT noted_at FROM auditor.proof_watermark"
    await proof.platform.corrupt("ALTER TABLE storage.assets RENAME COLUMN asset_id TO id")
    before = await proof.scalar(noted_at)
    assert (await proof.whole()).report.unproven != ()
    await proof.whole()
    assert await proof.scalar(noted_at) == before
    # Not for ever: the others go on, and the passes over its scopes begin anew.
    await proof.platform.corrupt("UPDATE auditor.proof_watermark SET noted_at = noted_at - interval '1 hour'")
    before = await proof.scalar(noted_at)
    proven = await proof.whole()
    assert await proof.scalar(noted_at) != before
    assert proven.passes["order"].next_id is not None
    generation_id = await ledger.reserve(proof.platform.other_user, 5)
    assert str(generation_id) in named(await proof.news(), "verdicts_have_their_request")


async def test_proofs_that_were_thrown_away_are_made_again(proof: ProofHarness) -> None:
    await proof.platform.corrupt(
        "TRUNCATE auditor.proof_marks, auditor.proof_watermark, auditor.proof_passes, auditor.proven_balances"
    )
    await proof.settle()
    assert await proof.scalar("SELECT count(*) FROM auditor.proof_watermark") == 1


async def _give_old_id(proof: ProofHarness, producer: Service, message: type[Message]) -> UUID:
    """A message of some minutes ago, of which the journal knows and no inbox. The next round moves beyond it."""
    old_id = first_id_at(datetime.now(UTC) - timedelta(minutes=8))
    give = f"SET message_id = '{old_id}'"
    of_message = f"WHERE message_id = '{{{name_of(message.subject)}}}'"
    await proof.platform.corrupt(
        f"UPDATE auditor.journal {give} {of_message}",
        f"UPDATE {producer}.outbox_messages {give}, published_at = now() - interval '8 minutes' {of_message}",
        f"UPDATE auditor.proof_watermark SET noted_at = now() - interval '10 minutes', message_id = '{FIRST_ID}'",
        "INSERT INTO auditor.proof_marks (noted_at, posting_id, running) SELECT now() - interval '90 seconds',"
        " last_value, '{{}}' FROM billing.balance_ledger_posting_id_seq",
    )
    return old_id


async def test_a_message_that_readers_pass_during_a_round_is_checked(proof: ProofHarness) -> None:
    """They were stopped, and have come to it: all that they had not read is passed at one moment."""
    lost = await _give_old_id(proof, "generation", GenerationCompleted)
    to_place = [f"UPDATE {service}.relay_positions SET sequence = {{}}" for service in SERVICES]
    await proof.platform.corrupt(*(statement.format(0) for statement in to_place))
    during: list[str] = []

    def readers_pass(_connection: object, _cursor: object, sql: str, *_rest: object) -> None:
        if not during and ("rows_of_generation_outbox_messages" in sql or "AS firsts" in sql):
            during.append(sql)
            await_only(proof.platform.corrupt(*(statement.format(1) for statement in to_place)))

    event.listen(proof.engine.sync_engine, "after_cursor_execute", readers_pass)
    rounds = [await proof.prover(0, MOMENT).prove() for _ in range(2)]
    assert during != []
    assert str(lost) in named(rounds[0], "messages_are_consumed") | named(rounds[1], "messages_are_consumed")


async def test_a_message_that_is_tried_again_is_checked_until_it_is_handled(proof: ProofHarness) -> None:
    deferred = await _give_old_id(proof, "payments", GrantCredits)
    await proof.platform.corrupt(
        "INSERT INTO billing.delivery_attempts (consumer, message_id, deferrals, last_reason)"
        f" VALUES ('billing-billing', '{deferred}', 1, 'early')"
    )
    before = await proof.scalar("SELECT noted_at FROM auditor.proof_watermark")
    assert named(await proof.prover(0, MOMENT).prove(), "messages_are_consumed") == set()
    assert await proof.scalar("SELECT noted_at FROM auditor.proof_watermark") > before
    await proof.platform.corrupt("UPDATE billing.delivery_attempts SET last_at = now() - interval '3 minutes'")
    assert named(await proof.prover(0, MOMENT).prove(), "messages_are_consumed") == {str(deferred)}


async def test_a_pass_is_sound_only_if_every_replica_could_evaluate_all_of_it(proof: ProofHarness) -> None:
    began_at = datetime(2026, 1, 1, tzinfo=UTC)
    failed = Pass("order", new_id(), began_at, is_sound=False, proven_at=None)
    async with proof.engine.begin() as connection:
        await put_passes(connection, [failed])
        await put_passes(connection, [replace(failed, is_sound=True)])
        assert not (await find_passes(connection))["order"].is_sound
        await put_passes(connection, [replace(failed, began_at=began_at + timedelta(hours=1), is_sound=True)])
        assert (await find_passes(connection))["order"].is_sound


async def test_a_finding_that_another_replica_has_just_seen_stays_open(proof: ProofHarness) -> None:
    violation = Violation("no_dead_letters", "warning", str(new_id()), "none", "one")
    gone = [OpenFinding(violation.code, violation.subject, violation.subject)]
    async with proof.engine.begin() as connection:
        checked_at = await connection.scalar(text("SELECT now()"))
        await add_findings(connection, [violation], [], checked_at)
        assert await resolve_unseen(connection, gone, checked_at) == 0
        assert await resolve_unseen(connection, gone, checked_at + timedelta(microseconds=1)) == 1
