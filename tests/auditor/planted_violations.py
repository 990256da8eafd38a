"""Violations to plant in a healthy platform, and the invariant that must name each: one for each condition.

Each is done as the database's superuser, past triggers, and past the constraints that would refuse it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from auditor.invariants.messages import INBOXES
from contracts.message import SERVICES, Message, Service
from contracts.permissions import durable_name
from contracts.registry import consumed_by, stream_of
from contracts.storage import DeleteFiles
from tests.auditor.platform_harness import name_of


@dataclass(frozen=True)
class PlantedViolation:
    """``sql`` plants it; the check must name ``code`` with ``subject``, at once or once it is old enough.

    A subject without a name of its own is a query that finds it.
    """

    code: str
    subject: str
    sql: tuple[str, ...]
    waits: bool = False
    """Whether the invariant leaves young rows alone, because a message might still be under way."""


def _changed(
    code: str, subject: str, table: str, where: str, *changes: str, waits: bool = False
) -> Iterator[PlantedViolation]:
    """One violation for each of ``changes`` to the row."""
    for change in changes:
        yield PlantedViolation(code, subject, (f"UPDATE {table} SET {change} WHERE {where}",), waits)


def _gone(code: str, subject: str, table: str, where: str, waits: bool = False) -> PlantedViolation:
    return PlantedViolation(code, subject, (f"DELETE FROM {table} WHERE {where}",), waits)


def _unchecked(table: str, *constraints: str) -> str:
    return f"ALTER TABLE {table} " + ", ".join(f"DROP CONSTRAINT {constraint}" for constraint in constraints)


ANY_MOVEMENT = _unchecked("billing.balance_ledger", "movements_go_where_their_reason_says")
RESERVED = "generation_id = '{delivered}' AND reason = 'reserve'"
TRANSFER = "SELECT transfer_id::text FROM billing.balance_ledger WHERE "
OF_DELIVERED = "generation_id = '{delivered}'"

MOVES = {
    "reserve": ("user:available", "user:reserved"),
    "capture": ("user:reserved", "platform:revenue"),
    "release": ("user:reserved", "user:available"),
    "expiry": ("user:available", "platform:expired"),
    "receivable_settled": ("user:available", "user:receivable"),
    "purchase": ("user:available", "platform:issued"),
    "bonus": ("user:available", "platform:issued"),
    "signup": ("user:available", "platform:issued"),
    "goodwill": ("user:available", "platform:issued"),
    "dispute_won": ("user:available", "platform:refunded"),
    "refund_failed": ("user:available", "platform:refunded"),
    "refund": ("user:available", "platform:refunded"),
    "dispute": ("user:available", "user:receivable", "platform:refunded"),
}


def _misdirected() -> Iterator[PlantedViolation]:
    for reason, accounts in MOVES.items():
        transfer = "clawback_id = '{lost}'" if reason == "dispute" else f"reason = '{reason}'"
        for account in accounts:
            elsewhere = "platform:revenue" if reason == "expiry" else "platform:expired"
            for change in (
                "amount_credits = -amount_credits",
                f"account = '{elsewhere}', user_id = NULL, line_number = NULL",
            ):
                sql = f"UPDATE billing.balance_ledger SET {change} WHERE {transfer} AND account = '{account}'"
                yield PlantedViolation(
                    "postings_go_where_their_reason_says",
                    f"{TRANSFER}{transfer} ORDER BY 1 LIMIT 1",
                    (ANY_MOVEMENT, sql),
                )


def _mixed_up() -> Iterator[PlantedViolation]:
    """One leg of a transfer is for something else than the other."""
    for change in ("reason = 'signup'", "payment_id = '{payment}'", "grant_id = '{payment}'"):
        sql = f"UPDATE billing.balance_ledger SET {change} WHERE posting_id = 1"
        yield PlantedViolation("transfers_sum_to_zero", "{transfer}", (sql,))
    for change, where in (
        ("generation_id = '{failed}'", RESERVED),
        ("clawback_id = '{refund}'", "clawback_id = '{lost}'"),
    ):
        sql = f"UPDATE billing.balance_ledger SET {change} WHERE {where} AND account = 'user:available'"
        subject = f"{TRANSFER}{where} LIMIT 1"
        yield PlantedViolation("transfers_sum_to_zero", subject, (sql,))
    for change in ("user_id = '{other_user}'", "line_number = 1000"):
        sql = f"UPDATE billing.balance_ledger SET {change} WHERE {RESERVED} AND account = 'user:reserved'"
        yield PlantedViolation("transfers_move_one_users_credits", f"{TRANSFER}{RESERVED} LIMIT 1", (sql,))


LEDGER = (
    *_changed(
        "transfers_sum_to_zero",
        "{transfer}",
        "billing.balance_ledger",
        "posting_id = 1",
        "amount_credits = amount_credits + 1",
    ),
    *_mixed_up(),
    *_misdirected(),
    *_changed(
        "balances_equal_postings",
        "{user}",
        "billing.users",
        "user_id = '{user}'",
        "available_credits = available_credits + 1",
        "reserved_credits = reserved_credits + 1",
    ),
    *_changed(
        "balances_equal_postings",
        "{debtor}",
        "billing.users",
        "user_id = '{debtor}'",
        "receivable_credits = receivable_credits + 1",
    ),
    _gone("balances_equal_postings", "{other_user}", "billing.balance_ledger", "user_id = '{other_user}'"),
    _gone("balances_equal_postings", "{other_user}", "billing.users", "user_id = '{other_user}'"),
    *(
        PlantedViolation(
            "nothing_is_negative",
            "{user}",
            (
                _unchecked("billing.users", f"{balance}_is_not_negative", "debts_are_settled_first"),
                f"UPDATE billing.users SET {balance}_credits = -1 WHERE user_id = '{{user}}'",
            ),
        )
        for balance in ("available", "reserved", "receivable")
    ),
    *(
        PlantedViolation(
            "nothing_is_negative",
            "{user}",
            (
                _unchecked("billing.grants", "remaining_is_part_of_the_grant"),
                f"UPDATE billing.grants SET remaining_credits = {left} WHERE grant_id = '{{bonus}}'",
            ),
        )
        for left in ("-1", "amount_credits + 1")
    ),
    *(
        PlantedViolation(
            "nothing_is_negative",
            "{delivered}",
            (
                _unchecked("billing.reservations", "a_reservation_is_positive", "captured_is_part_of_the_reservation"),
                f"UPDATE billing.reservations SET {change} WHERE {OF_DELIVERED}",
            ),
        )
        for change in ("amount_credits = 0, captured_credits = 0", "captured_credits = 31", "captured_credits = -1")
    ),
    PlantedViolation(
        "one_reservation_per_generation",
        "{running}",
        (
            _unchecked("billing.reservations", "one_reservation_per_generation"),
            """
            INSERT INTO billing.reservations (reservation_id, generation_id, user_id, amount_credits, deadline_at,
                                              reserved_at)
            SELECT gen_random_uuid(), generation_id, user_id, amount_credits, deadline_at, reserved_at
            FROM billing.reservations WHERE generation_id = '{running}'
            """,
        ),
    ),
    PlantedViolation(
        "one_resolution_per_reservation",
        "{failed}",
        (
            _unchecked("billing.reservation_resolutions", "one_resolution_per_reservation"),
            """
            INSERT INTO billing.reservation_resolutions
            SELECT e.* FROM billing.reservation_resolutions AS e JOIN billing.reservations USING (reservation_id)
            WHERE generation_id = '{failed}'
            """,
        ),
    ),
    _gone(
        "one_resolution_per_reservation",
        "{delivered}",
        "billing.reservation_resolutions",
        "reservation_id = (SELECT reservation_id FROM billing.reservations WHERE generation_id = '{delivered}')",
    ),
    _gone(
        "one_resolution_per_reservation",
        "SELECT reservation_id::text FROM billing.reservation_resolutions AS e WHERE NOT EXISTS"
        " (SELECT FROM billing.reservations AS r WHERE r.reservation_id = e.reservation_id)",
        "billing.reservations",
        "generation_id = '{failed}'",
    ),
    *_changed(
        "one_resolution_per_reservation",
        "{delivered}",
        "billing.reservations",
        OF_DELIVERED,
        "status = 'released', captured_credits = 0",
        "captured_credits = 29",
        "amount_credits = 31",
    ),
    *_changed(
        "one_resolution_per_reservation",
        "{failed}",
        "billing.reservations",
        "generation_id = '{failed}'",
        "status = 'captured'",
    ),
    *_changed(
        "one_resolution_per_reservation",
        "{delivered}",
        "billing.reservation_resolutions",
        "captured_credits = 30 AND reservation_id ="
        " (SELECT reservation_id FROM billing.reservations WHERE generation_id = '{delivered}')",
        "captured_credits = 29, released_credits = 1",
        "released_credits = 1",
    ),
    PlantedViolation(
        "reservations_match_postings",
        "{delivered}",
        (
            """
            INSERT INTO billing.balance_ledger (transfer_id, account, amount_credits, reason, user_id, line_number,
                                                generation_id, occurred_at)
            SELECT gen_random_uuid(), account, amount_credits, reason, user_id,
                   CASE WHEN user_id IS NOT NULL THEN 1000 END, generation_id, now()
            FROM billing.balance_ledger WHERE generation_id = '{delivered}' AND reason = 'capture'
            """,
        ),
    ),
    *(
        _gone(
            "reservations_match_postings",
            f"{{{order}}}",
            "billing.balance_ledger",
            f"generation_id = '{{{order}}}' AND reason = '{reason}'",
        )
        for order, reason in (("delivered", "reserve"), ("delivered", "capture"), ("failed", "release"))
    ),
    _gone("reservations_match_postings", "{running}", "billing.reservations", "generation_id = '{running}'"),
    _gone("reservations_match_postings", "{running}", "billing.balance_ledger", "generation_id = '{running}'"),
    *_changed(
        "held_reservations_are_backed",
        "{user}",
        "billing.reservations",
        "generation_id = '{failed}'",
        "status = 'held', resolved_at = NULL",
    ),
    *_changed(
        "held_reservations_are_backed",
        "{other_user}",
        "billing.users",
        "user_id = '{other_user}'",
        "reserved_credits = 5",
    ),
    *_changed(
        "held_reservations_are_backed",
        "{running}",
        "billing.reservations",
        "generation_id = '{running}'",
        "user_id = '{running}'",
    ),
    *_changed(
        "draws_make_up_their_reservation",
        "{delivered}",
        "billing.reservation_grants",
        "reservation_id = (SELECT reservation_id FROM billing.reservations WHERE generation_id = '{delivered}')",
        "amount_credits = amount_credits + 1",
    ),
    _gone("draws_make_up_their_reservation", "{running}", "billing.reservation_grants", "true"),
    _gone(
        "draws_make_up_their_reservation",
        "SELECT reservation_id::text FROM billing.reservation_grants AS d WHERE NOT EXISTS"
        " (SELECT FROM billing.reservations AS r WHERE r.reservation_id = d.reservation_id) LIMIT 1",
        "billing.reservations",
        "generation_id = '{failed}'",
    ),
    *_changed(
        "grants_are_posted_once",
        "{signup}",
        "billing.grants",
        "grant_id = '{signup}'",
        "amount_credits = 500",
        "reason = 'goodwill'",
        "user_id = '{other_user}'",
        "payment_id = '{payment}'",
    ),
    _gone("grants_are_posted_once", "{signup}", "billing.grants", "grant_id = '{signup}'"),
    _gone("grants_are_posted_once", "{signup}", "billing.balance_ledger", "grant_id = '{signup}'"),
    PlantedViolation(
        "grants_are_posted_once",
        "{signup}",
        (
            """
            INSERT INTO billing.balance_ledger (transfer_id, account, amount_credits, reason, user_id, line_number,
                                                grant_id, occurred_at)
            SELECT gen_random_uuid(), account, amount_credits, reason, user_id, line_number + 1000, grant_id, now()
            FROM billing.balance_ledger WHERE grant_id = '{signup}'
            """,
        ),
    ),
    *_changed(
        "clawbacks_are_posted_once",
        "{lost}",
        "billing.clawbacks",
        "clawback_id = '{lost}'",
        "taken_credits = taken_credits + 1",
        "receivable_credits = receivable_credits + 1",
        "reason = 'refund'",
        "user_id = '{other_user}'",
        "payment_id = '{payment}'",
    ),
    _gone("clawbacks_are_posted_once", "{lost}", "billing.clawbacks", "clawback_id = '{lost}'"),
    _gone("clawbacks_are_posted_once", "{lost}", "billing.balance_ledger", "clawback_id = '{lost}'"),
    *_changed(
        "grants_back_what_is_available",
        "{user}",
        "billing.grants",
        "grant_id = '{purchase}'",
        "remaining_credits = remaining_credits - 1",
    ),
    _gone("grants_back_what_is_available", "{other_user}", "billing.grants", "user_id = '{other_user}'"),
    *_changed(
        "grants_back_what_is_available",
        "{running}",
        "billing.grants",
        "grant_id = '{purchase}'",
        "user_id = '{running}'",
    ),
    *_changed(
        "statement_lines_have_no_gaps", "{user}", "billing.users", "user_id = '{user}'", "line_number = line_number + 1"
    ),
    _gone("statement_lines_have_no_gaps", "{other_user}", "billing.balance_ledger", "user_id = '{other_user}'"),
    _gone("statement_lines_have_no_gaps", "{user}", "billing.balance_ledger", "user_id = '{user}' AND line_number = 3"),
    *_changed(
        "statement_lines_have_no_gaps",
        "{user}",
        "billing.balance_ledger",
        "user_id = '{user}' AND line_number = 1",
        "line_number = 0",
    ),
    *_changed(
        "statement_lines_have_no_gaps",
        "{running}",
        "billing.balance_ledger",
        "user_id = '{other_user}'",
        "user_id = '{running}'",
    ),
    PlantedViolation(
        "an_order_has_one_verdict",
        "{running}",
        (
            """
            INSERT INTO billing.refusals
            SELECT '{running}', user_id, code, required_credits, available_credits, refused_at FROM billing.refusals
            WHERE generation_id = '{refused}'
            """,
        ),
    ),
)

ORDERS = (
    _gone("requests_get_a_verdict", "{refused}", "billing.refusals", "true", waits=True),
    _gone("requests_get_a_verdict", "{running}", "billing.reservations", "generation_id = '{running}'", waits=True),
    *(
        _gone("verdicts_have_their_request", f"{{{order}}}", table, f"generation_id = '{{{order}}}'")
        for order in ("running", "refused")
        for table in ("gateway.generation_requests", "gateway.generations")
    ),
    *_changed(
        "verdicts_have_their_request",
        "{delivered}",
        "gateway.generation_requests",
        OF_DELIVERED,
        "user_id = '{other_user}'",
    ),
    *_changed(
        "verdicts_have_their_request",
        "{delivered}",
        "gateway.generations",
        OF_DELIVERED,
        "user_id = '{other_user}'",
        "price_credits = 1",
    ),
    _gone(
        "reservations_have_their_generation",
        "{failed}",
        "generation.video_generations",
        "generation_id = '{failed}'",
        waits=True,
    ),
    *_changed(
        "reservations_have_their_generation",
        "{delivered}",
        "generation.video_generations",
        OF_DELIVERED,
        "price_credits = 1",
        "user_id = '{other_user}'",
    ),
    _gone("generations_are_funded", "{running}", "billing.reservations", "generation_id = '{running}'"),
    _gone("captures_have_an_asset", "{delivered}", "storage.assets", OF_DELIVERED),
    *_changed(
        "completed_generations_have_an_asset",
        "{late}",
        "generation.video_generations",
        "generation_id = '{late}'",
        "asset_id = gen_random_uuid()",
        "asset_id = '{asset}'",
    ),
    *(
        PlantedViolation(
            "stored_outputs_are_delivered",
            f"{{{order}}}",
            (f"UPDATE storage.assets SET generation_id = '{{{order}}}' WHERE asset_id = '{{asset}}'",),
            waits=True,
        )
        for order in ("failed", "cancelled", "running", "refused")
    ),
    *_changed("one_asset_per_generation", "{delivered}", "storage.assets", OF_DELIVERED, "user_id = '{other_user}'"),
    *_changed(
        "one_asset_per_generation",
        "{refused}",
        "storage.assets",
        "asset_id = '{asset}'",
        "generation_id = '{refused}'",
    ),
    PlantedViolation(
        "one_asset_per_generation",
        "{delivered}",
        (
            _unchecked("storage.assets", "one_asset_per_generation_and_role"),
            "UPDATE storage.assets SET generation_id = '{delivered}', user_id = '{user}' WHERE role = 'output'",
        ),
    ),
    _gone("deletions_have_their_request", "{late}", "storage.deletions", "generation_id = '{late}'", waits=True),
    *_changed(
        "deletions_have_their_request",
        "{late}",
        "gateway.generations",
        "generation_id = '{late}'",
        "deleted_at = NULL",
        "status = 'running'",
    ),
    *_changed(
        "deletions_have_their_request",
        "{late}",
        "storage.deletions",
        "generation_id = '{late}'",
        "user_id = '{other_user}'",
    ),
    *_changed(
        "deletions_have_their_request",
        "{running}",
        "storage.deletions",
        "generation_id = '{late}'",
        "generation_id = '{running}'",
    ),
    *_changed(
        "variants_are_alike",
        "{second_variant}",
        "gateway.generations",
        "generation_id = '{second_variant}'",
        "user_id = '{user}'",
        "model_id = 'another'",
        "price_credits = 1",
        "requested_at = now() - interval '1 minute'",
        "variant_number = 4, variant_count = 4",
    ),
    *_changed(
        "variants_are_alike",
        "{first_variant}",
        "gateway.generations",
        "generation_id = '{withdrawn_variant}'",
        "variant_of = NULL, variant_number = NULL, variant_count = NULL",
    ),
    _gone("variants_are_alike", "{first_variant}", "gateway.generations", "generation_id = '{withdrawn_variant}'"),
    _gone("variants_are_alike", "{second_variant}", "gateway.generations", "generation_id = '{first_variant}'"),
    *(
        _gone("variants_are_funded_together", f"{{{subject}}}", "billing.reservations", f"generation_id = '{{{gone}}}'")
        for subject, gone in (
            ("second_variant", "first_variant"),
            ("second_variant", "second_variant"),
            ("withdrawn_variant", "first_variant"),
        )
    ),
    PlantedViolation(
        "variants_are_funded_together",
        "{first_variant}",
        (
            "DELETE FROM billing.reservations WHERE generation_id = '{second_variant}'",
            """
            INSERT INTO billing.refusals
            SELECT '{second_variant}', user_id, code, required_credits, available_credits, refused_at
            FROM billing.refusals WHERE generation_id = '{refused}'
            """,
        ),
    ),
    *_changed(
        "variants_are_funded_together",
        "{second_variant}",
        "billing.refusals",
        "generation_id = '{withdrawn_variant}'",
        "code = 'account_frozen'",
    ),
    *_changed(
        "outcomes_agree_with_reservations",
        "{delivered}",
        "generation.video_generations",
        OF_DELIVERED,
        "status = 'failed', asset_id = NULL",
        "late = true",
        "price_credits = 29",
    ),
    *_changed(
        "outcomes_agree_with_reservations",
        "{late}",
        "generation.video_generations",
        "generation_id = '{late}'",
        "late = false",
    ),
    *_changed(
        "outcomes_agree_with_reservations",
        "{failed}",
        "generation.video_generations",
        "generation_id = '{failed}'",
        "status = 'running', finished_at = NULL",
    ),
    *_changed(
        "outcomes_agree_with_reservations",
        "{delivered}",
        "billing.reservations",
        OF_DELIVERED,
        "captured_credits = 29",
    ),
    *_changed(
        "outcomes_agree_with_reservations",
        "{running}",
        "generation.video_generations",
        "generation_id = '{running}'",
        "status = 'cancelled', finished_at = now()",
        waits=True,
    ),
    *_changed(
        "refused_orders_are_not_made",
        "{refused}",
        "generation.video_generations",
        "generation_id = '{running}'",
        "generation_id = '{refused}'",
    ),
)

MONEY = (
    _gone(
        "payment_requests_are_answered",
        "{pending}",
        "payments.payment_transactions",
        "payment_id = '{pending}'",
        waits=True,
    ),
    *_changed(
        "payment_requests_are_answered",
        "{refused_payment}",
        "gateway.payment_requests",
        "payment_id = '{refused_payment}'",
        "refusal_code = NULL",
        waits=True,
    ),
    _gone("payment_requests_are_answered", "{payment}", "gateway.payment_requests", "payment_id = '{payment}'"),
    *_changed(
        "payment_requests_are_answered",
        "{payment}",
        "gateway.payment_requests",
        "payment_id = '{payment}'",
        "user_id = '{other_user}'",
    ),
    *(
        PlantedViolation(
            "one_grant_per_payment",
            "{payment}",
            (
                "DROP INDEX billing.one_grant_per_payment",
                f"""
                INSERT INTO billing.grants SELECT gen_random_uuid(), content_hash, user_id, amount_credits,
                    remaining_credits, reason, actor, payment_id, note, expires_at, granted_at
                FROM billing.grants WHERE grant_id = '{{{grant}}}'
                """,
            ),
        )
        for grant in ("purchase", "bonus")
    ),
    _gone("payments_reach_the_ledger", "{payment}", "payments.payment_transactions", "payment_id = '{payment}'"),
    _gone("payments_reach_the_ledger", "{payment}", "billing.grants", "grant_id = '{bonus}'", waits=True),
    _gone("payments_reach_the_ledger", "{refunded}", "billing.clawbacks", "clawback_id = '{refund}'", waits=True),
    *_changed(
        "payments_reach_the_ledger",
        "{payment}",
        "payments.credit_movements",
        "movement_id = '{purchase}'",
        "amount_credits = 99",
        "kind = 'refund_failed'",
    ),
    *_changed(
        "payments_reach_the_ledger",
        "{payment}",
        "billing.grants",
        "grant_id = '{bonus}'",
        "user_id = '{other_user}'",
        "payment_id = NULL",
        "reason = 'goodwill'",
    ),
    *_changed(
        "payments_reach_the_ledger",
        "{refunded}",
        "billing.clawbacks",
        "clawback_id = '{refund}'",
        "taken_credits = 1",
        "receivable_credits = 1",
    ),
    PlantedViolation(
        "payments_reach_the_ledger",
        "{payment}",
        (
            """
            INSERT INTO billing.clawbacks
            SELECT grant_id, content_hash, user_id, payment_id, 'refund', amount_credits, 0, NULL, now()
            FROM billing.grants WHERE grant_id = '{purchase}'
            """,
            "DELETE FROM billing.grants WHERE grant_id = '{purchase}'",
        ),
    ),
    *(
        _gone(
            "paid_payments_are_credited",
            f"{{{payment}}}",
            "payments.credit_movements",
            f"kind = '{kind}' AND payment_id = '{{{payment}}}'",
        )
        for payment, kind in (
            ("payment", "purchase"),
            ("payment", "bonus"),
            ("partly_refunded", "purchase"),
            ("refunded", "purchase"),
            ("disputed", "purchase"),
            ("dispute_lost", "purchase"),
        )
    ),
    *_changed(
        "paid_payments_are_credited",
        "{payment}",
        "payments.payment_transactions",
        "payment_id = '{payment}'",
        "status = 'pending'",
        "status = 'failed'",
        "bonus_credits = 11",
        "credits = 101",
    ),
    *_changed(
        "paid_payments_are_credited",
        "{pending}",
        "payments.payment_transactions",
        "payment_id = '{pending}'",
        "status = 'settled'",
    ),
    *(
        _gone(
            "returned_money_takes_its_credits_back",
            f"{{{payment}}}",
            "payments.credit_movements",
            f"kind = '{kind}' AND payment_id = '{{{payment}}}'",
        )
        for payment, kind in (
            ("refunded", "refund"),
            ("dispute_lost", "dispute"),
            ("disputed", "dispute"),
            ("partly_refunded", "refund_failed"),
            ("dispute_won", "dispute_won"),
        )
    ),
    _gone(
        "returned_money_takes_its_credits_back",
        "{refunded}",
        "payments.credit_movements",
        "payment_id = '{refunded}'",
    ),
    *_changed(
        "returned_money_takes_its_credits_back",
        "{payment}",
        "payments.payment_transactions",
        "payment_id = '{payment}'",
        "status = 'refunded', refunded_cents = 1000",
        "status = 'partially_refunded', refunded_cents = 10",
    ),
    *_changed(
        "returned_money_takes_its_credits_back",
        "{overpaid}",
        "payments.payment_transactions",
        "payment_id = '{overpaid}'",
        "paid_cents = 1000",
        "refunded_cents = 1000",
    ),
    *_changed(
        "returned_money_takes_its_credits_back",
        "{underpaid}",
        "payments.payment_transactions",
        "payment_id = '{underpaid}'",
        "paid_cents = 1000",
        "paid_cents = 0",
    ),
    *_changed(
        "returned_money_takes_its_credits_back",
        "{dispute_won}",
        "payments.disputes",
        "payment_id = '{dispute_won}'",
        "state = 'lost'",
        "state = 'open'",
    ),
    *_changed(
        "grants_have_an_origin",
        "{purchase}",
        "payments.payment_transactions",
        "payment_id = '{payment}'",
        "settled_at = NULL",
    ),
    *(
        _gone("grants_have_an_origin", f"{{{grant}}}", "payments.credit_movements", f"movement_id = '{{{grant}}}'")
        for grant in ("purchase", "bonus", "won", "refund_failed")
    ),
    _gone("grants_have_an_origin", "{signup}", "billing.operator_grants", "grant_id = '{signup}'"),
    _gone("grants_have_an_origin", "{welcome}", "gateway.signups", "grant_id = '{welcome}'"),
    *_changed(
        "grants_have_an_origin",
        "{welcome}",
        "gateway.signups",
        "grant_id = '{welcome}'",
        "user_id = '{user}'",
        "amount_credits = 24",
    ),
    # A sign-up explains no other kind of grant.
    *_changed("grants_have_an_origin", "{welcome}", "billing.grants", "grant_id = '{welcome}'", "reason = 'goodwill'"),
    _gone("signups_reach_the_ledger", "{welcome}", "billing.grants", "grant_id = '{welcome}'", waits=True),
    *_changed(
        "signups_reach_the_ledger",
        "{welcome}",
        "billing.grants",
        "grant_id = '{welcome}'",
        "reason = 'goodwill'",
        "amount_credits = 26",
        "user_id = '{user}'",
    ),
    # What a command from the broker leaves that names neither a payment nor an operator's grant.
    PlantedViolation(
        "grants_have_an_origin",
        "{running}",
        (
            """
            INSERT INTO billing.grants (grant_id, content_hash, user_id, amount_credits, remaining_credits, reason,
                                        actor, granted_at)
            VALUES ('{running}', '', '{user}', 44444, 44444, 'goodwill', 'Ada', now())
            """,
        ),
    ),
    *(
        _gone(
            "bought_credits_have_a_payment", f"{{{grant}}}", "payments.credit_movements", f"movement_id = '{{{grant}}}'"
        )
        for grant in ("purchase", "bonus", "won", "refund_failed")
    ),
    *_changed(
        "bought_credits_have_a_payment",
        "{purchase}",
        "payments.payment_transactions",
        "payment_id = '{payment}'",
        "user_id = '{other_user}'",
    ),
    _gone("clawbacks_have_a_payment", "{refund}", "payments.credit_movements", "movement_id = '{refund}'"),
    *_changed(
        "clawbacks_have_a_payment",
        "{lost}",
        "billing.clawbacks",
        "clawback_id = '{lost}'",
        "user_id = '{other_user}'",
    ),
    *_changed(
        "payments_take_back_what_they_gave",
        "{refunded}",
        "billing.clawbacks",
        "clawback_id = '{refund}'",
        "taken_credits = 23",
        "receivable_credits = 1",
        "user_id = '{other_user}'",
        waits=True,
    ),
    *_changed(
        "payments_take_back_what_they_gave",
        "{dispute_won}",
        "billing.grants",
        "grant_id = '{won}'",
        "amount_credits = 51",
        waits=True,
    ),
    *_changed(
        "payments_take_back_what_they_gave",
        "{partly_refunded}",
        "billing.grants",
        "grant_id = '{refund_failed}'",
        "amount_credits = 68",
        waits=True,
    ),
)

PENDING = "payment_id = '{pending}'"

DEADLINES = (
    *_changed(
        "generations_meet_their_deadlines",
        "{running}",
        "generation.video_generations",
        "generation_id = '{running}'",
        *(
            f"deadline_at = now(), status = '{status}'"
            for status in ("queued", "dispatching", "running", "storing", "cancelling")
        ),
        waits=True,
    ),
    *_changed(
        "reservations_end_in_time",
        "{running}",
        "generation.video_generations",
        "generation_id = '{running}'",
        "deadline_at = now()",
        "finished_at = now(), status = 'failed'",
        waits=True,
    ),
    _gone(
        "reservations_end_in_time",
        "{running}",
        "generation.video_generations",
        "generation_id = '{running}'",
        waits=True,
    ),
    *(
        violation
        for order, status in (
            ("delivered", "prepared"),
            ("delivered", "unknown"),
            ("failed", "submitted"),
            ("cancelled", "running"),
        )
        for violation in _changed(
            "attempts_end_with_their_generation",
            f"{{{order}}}",
            "generation.attempts",
            f"generation_id = '{{{order}}}'",
            f"status = '{status}', ended_at = NULL",
        )
    ),
    *_changed(
        "attempts_are_looked_after",
        "{running}",
        "generation.attempts",
        "generation_id = '{running}'",
        *(
            f"status = '{status}', check_at = now() - interval '11 minutes'"
            for status in ("prepared", "unknown", "submitted", "running")
        ),
        waits=True,
    ),
    *_changed(
        "attempts_are_looked_after",
        "{failed}",
        "generation.attempts",
        "generation_id = '{failed}'",
        "provider_job_id = 'job', cancel_due_at = now() - interval '11 minutes'",
        waits=True,
    ),
    *_changed(
        "callbacks_are_processed",
        "{running}",
        "generation.provider_callbacks",
        "processed_at IS NULL",
        "due_at = now() - interval '11 minutes', attempt_id ="
        " (SELECT attempt_id FROM generation.attempts WHERE generation_id = '{running}')",
        waits=True,
    ),
    *_changed(
        "callbacks_are_processed",
        "{running}",
        "generation.provider_callbacks",
        "processed_at IS NULL",
        "due_at = now() - interval '11 minutes', attempt_id = '{running}'",
        waits=True,
    ),
    *_changed(
        "verifications_are_answered",
        "{running}",
        "storage.verifications",
        "generation_id = '{running}' AND answered_at IS NULL",
        "asked_at = now() - interval '31 minutes'",
        waits=True,
    ),
    *_changed(
        "previews_are_made",
        "{delivered}",
        "storage.previews",
        "generation_id = '{delivered}'",
        "ended_at = NULL, outcome = NULL, thumbnails = NULL, animated_preview = NULL,"
        " due_at = now(), requested_at = now() - interval '1441 minutes'",
        waits=True,
    ),
    *_changed(
        "deletions_are_carried_out",
        "{late}",
        "storage.deletions",
        "generation_id = '{late}'",
        "deleted_at = NULL, due_at = now() + interval '9 minutes', opened_at = now() - interval '61 minutes'",
        waits=True,
    ),
    *_changed(
        "due_grants_expire", "{user}", "billing.grants", "grant_id = '{purchase}'", "expires_at = now()", waits=True
    ),
    *_changed(
        "payments_are_looked_up",
        "{pending}",
        "payments.payment_transactions",
        PENDING,
        "next_look_at = NULL",
        "next_look_at = NULL, status = 'created'",
    ),
    *_changed(
        "payments_are_looked_up",
        "{pending}",
        "payments.payment_transactions",
        PENDING,
        "next_look_at = now() - interval '11 minutes'",
        waits=True,
    ),
    *_changed(
        "payments_are_looked_up",
        "{without_checkout}",
        "payments.reviews",
        "code = 'no_checkout'",
        "resolved_at = now()",
        "payment_id = '{payment}'",
    ),
    *_changed(
        "refunds_are_sent",
        "{refunded}",
        "payments.refunds",
        "payment_id = '{refunded}'",
        "state = 'requested'",
    ),
    *_changed(
        "refunds_are_sent",
        "{refunded}",
        "payments.refunds",
        "payment_id = '{refunded}'",
        "state = 'requested', created_at = now() - interval '61 minutes'",
        waits=True,
    ),
    *_changed(
        "provider_events_are_matched",
        "SELECT 'stripe/' || event_id FROM payments.provider_events WHERE payment_id IS NULL AND provider = 'stripe'",
        "payments.provider_events",
        "match_attempts = 2",
        "provider = 'stripe', next_match_at = NULL",
    ),
    *_changed(
        "provider_events_are_matched",
        "SELECT 'stripe/' || event_id FROM payments.provider_events WHERE payment_id IS NULL AND provider = 'stripe'",
        "payments.provider_events",
        "match_attempts = 2",
        "provider = 'stripe', next_match_at = now() - interval '11 minutes'",
        waits=True,
    ),
    *_changed(
        "movements_are_confirmed",
        "{payment}",
        "payments.credit_movements",
        "movement_id = '{purchase}'",
        "posted_at = NULL",
        waits=True,
    ),
    *_changed(
        "payments_in_review_are_before_somebody",
        "{in_review}",
        "payments.reviews",
        "payment_id = '{in_review}'",
        "resolved_at = now()",
        "payment_id = '{payment}'",
    ),
    *_changed(
        "reviews_are_decided",
        "{in_review}",
        "payments.reviews",
        "payment_id = '{in_review}'",
        "opened_at = now() - interval '24.5 hours'",
        waits=True,
    ),
    *_changed(
        "reviews_are_decided",
        "charge_1",
        "payments.reviews",
        "payment_id = '{in_review}'",
        "opened_at = now() - interval '24.5 hours', payment_id = NULL, reference = 'charge_1'",
        waits=True,
    ),
)

SHOWN = "gateway.generations"
BALANCES = ("available", "reserved", "receivable")

VIEWS = (
    *_changed(
        "balances_shown_equal_billings",
        "{user}",
        "gateway.balances",
        "user_id = '{user}'",
        *(f"{balance}_credits = {balance}_credits + 1" for balance in BALANCES),
        "line_number = line_number - 1",
        waits=True,
    ),
    _gone("balances_shown_equal_billings", "{user}", "gateway.balances", "user_id = '{user}'", waits=True),
    *_changed(
        "balances_shown_equal_billings",
        "{running}",
        "gateway.balances",
        "user_id = '{other_user}'",
        "user_id = '{running}'",
    ),
    *_changed(
        "balances_shown_follow_the_statement",
        "{user}",
        "gateway.balances",
        "user_id = '{user}'",
        *(f"{balance}_credits = {balance}_credits + 1" for balance in BALANCES),
        "line_number = line_number + 1",
    ),
    _gone("balances_shown_follow_the_statement", "{other_user}", "gateway.ledger_lines", "user_id = '{other_user}'"),
    *_changed(
        "statements_add_up",
        "{user}",
        "gateway.ledger_lines",
        "user_id = '{user}' AND line_number = 3",
        *(f"{balance}_after_credits = {balance}_after_credits + 1" for balance in BALANCES),
    ),
    *_changed(
        "statements_add_up",
        "{other_user}",
        "gateway.ledger_lines",
        "user_id = '{other_user}'",
        "available_after_credits = 49",
        *(f"{balance}_after_credits = -1, {balance}_delta_credits = -1" for balance in BALANCES),
    ),
    _gone(
        "statements_show_the_ledger",
        "{user}",
        "gateway.ledger_lines",
        "user_id = '{user}' AND line_number = 3",
        waits=True,
    ),
    *_changed(
        "statements_show_the_ledger",
        "{other_user}",
        "gateway.ledger_lines",
        "user_id = '{other_user}'",
        "available_delta_credits = 49, available_after_credits = 49",
        "reserved_delta_credits = 1, reserved_after_credits = 1",
        "receivable_delta_credits = 1, receivable_after_credits = 1",
        "line_number = 2",
        "reason = 'signup'",
        "transfer_id = gen_random_uuid()",
        "generation_id = '{delivered}'",
        "payment_id = '{payment}'",
    ),
    *_changed(
        "outcomes_are_shown",
        "{failed}",
        SHOWN,
        "generation_id = '{failed}'",
        "status = 'running'",
        "late = true",
        "version = 2",
    ),
    *(
        PlantedViolation(
            "outcomes_are_shown",
            f"{{{order}}}",
            (f"UPDATE gateway.generations SET status = 'requested', version = 0 WHERE generation_id = '{{{order}}}'",),
            waits=True,
        )
        for order in ("delivered", "failed", "cancelled", "refused", "withdrawn_variant")
    ),
    *_changed(
        "outcomes_are_shown", "{late}", SHOWN, "generation_id = '{late}'", "late = false, version = 0", waits=True
    ),
    *_changed("outcomes_are_shown", "{running}", SHOWN, "generation_id = '{running}'", "status = 'storing'"),
    _gone("outcomes_are_shown", "{late}", SHOWN, "generation_id = '{late}'", waits=True),
    *_changed(
        "outputs_are_shown",
        "{delivered}",
        SHOWN,
        OF_DELIVERED,
        "object_key = NULL",
        "object_key = 'library/of/somebody/else'",
        "poster_object_key = NULL",
        "sha256 = '00'",
        "size_bytes = 1",
    ),
    *_changed(
        "outputs_are_shown",
        "{delivered}",
        SHOWN,
        OF_DELIVERED,
        "object_key = NULL, status = 'storing'",
        waits=True,
    ),
    _gone("outputs_are_shown", "{delivered}", SHOWN, OF_DELIVERED, waits=True),
    *_changed("outputs_are_shown", "{failed}", SHOWN, "generation_id = '{failed}'", "object_key = 'library/of/nobody'"),
    *_changed(
        "charges_are_shown",
        "{delivered}",
        SHOWN,
        OF_DELIVERED,
        "captured_credits = 999",
        "released_credits = 1",
        "captured_credits = NULL, released_credits = 30",
    ),
    *_changed("charges_are_shown", "{delivered}", SHOWN, OF_DELIVERED, "captured_credits = NULL", waits=True),
    *_changed("charges_are_shown", "{late}", SHOWN, "generation_id = '{late}'", "released_credits = NULL", waits=True),
    *_changed("charges_are_shown", "{failed}", SHOWN, "generation_id = '{failed}'", "released_credits = 1"),
    *_changed("charges_are_shown", "{running}", SHOWN, "generation_id = '{running}'", "captured_credits = 9"),
    _gone("payments_are_shown", "{payment}", "gateway.payments", "payment_id = '{payment}'", waits=True),
    *_changed(
        "payments_are_shown", "{payment}", "gateway.payments", "payment_id = '{payment}'", "version = 2", waits=True
    ),
    *_changed(
        "payments_are_shown",
        "{payment}",
        "gateway.payments",
        "payment_id = '{payment}'",
        "version = 4",
        "status = 'refunded'",
        "credits = 1",
        "bonus_credits = 1",
        "price_cents = 1",
        "refunded_cents = 1",
        "version = 2, user_id = '{other_user}'",
    ),
    # Its messages were about something else.
    *_changed("payments_are_shown", "{refunded}", "gateway.payments", "payment_id = '{refunded}'", "version = 2"),
)

_LETTER = """
    INSERT INTO {schema}.dead_letters (consumer, message_id, subject, stream, payload, headers, reason, error,
                                       deliveries)
    VALUES ('{consumer}', '{{message}}', 'x', 'X', '', '{{{{}}}}', 'poison', 'it broke', 5)
"""


def _subject(message: type[Message]) -> str:
    return f"{{{name_of(message.subject)}}}"


def _readers() -> Iterator[tuple[type[Message], Service, str, str]]:
    """One message of each producer that a service reads from a stream, and where that leaves its trace."""
    seen = set()
    for consumer in SERVICES:
        kept = consumed_by("storage") if consumer == "storage" else INBOXES.get(consumer, ())
        for message in kept:
            for producer in message.producers:
                stream = stream_of(message.subject)
                if (producer, consumer, stream) not in seen:
                    seen.add((producer, consumer, stream))
                    written_down = "storage.deletions" if message is DeleteFiles else "storage.verifications"
                    table = written_down if consumer == "storage" else f"{consumer}.inbox_messages"
                    yield message, consumer, durable_name(consumer, stream), table


MESSAGES = (
    *(
        PlantedViolation(
            "outboxes_are_published",
            "{running}",
            (
                f"""
                INSERT INTO {service}.outbox_messages (message_id, subject, stream, payload, correlation_id)
                VALUES ('{{running}}', 'x', 'X', '', '{{running}}')
                """,
            ),
            waits=True,
        )
        for service in SERVICES
    ),
    *(
        PlantedViolation("no_dead_letters", "{message}", (_LETTER.format(schema=service, consumer="somebody"),))
        for service in SERVICES
    ),
    *(
        _gone("messages_are_consumed", _subject(message), table, f"message_id = '{_subject(message)}'", waits=True)
        for message, _, _, table in _readers()
    ),
    # A message that somebody else has, gave up or puts off is still missing here.
    *(
        PlantedViolation(
            "messages_are_consumed",
            _subject(message),
            (
                f"DELETE FROM {table} WHERE message_id = '{_subject(message)}'",
                _LETTER.format(schema=consumer, consumer="somebody").replace("{message}", _subject(message)),
                f"INSERT INTO {consumer}.delivery_attempts (consumer, message_id, last_reason)"
                f" VALUES ('somebody', '{_subject(message)}', 'early')",
                *(
                    (
                        f"INSERT INTO {consumer}.inbox_messages (consumer, message_id, message_day)"
                        f" VALUES ('somebody', '{_subject(message)}', current_date)",
                    )
                    if consumer != "storage"
                    else ()
                ),
            ),
            waits=True,
        )
        for message, consumer, _, table in _readers()
    ),
    # Storage has an older message of that generation, and not this one.
    PlantedViolation(
        "messages_are_consumed",
        _subject(DeleteFiles),
        ("UPDATE storage.deletions SET message_id = '00000000-0000-0000-0000-000000000000'",),
        waits=True,
    ),
    *_changed(
        "messages_come_from_their_owner",
        "{message}",
        "auditor.journal",
        "message_id = '{message}'",
        "producer = 'gateway', is_foreign = true",
        "producer = 'unnamed', is_foreign = true",
    ),
    *(
        _gone(
            "the_journal_is_complete",
            _subject(message),
            "auditor.journal",
            f"message_id = '{_subject(message)}'",
            waits=True,
        )
        for message in consumed_by("auditor")
    ),
)

ARCHIVED = "{delivered_to_debtor}"
ARCHIVE = "SELECT archive_id::text FROM gateway.timeline_archives"
OF_ARCHIVED = f"generation_id = '{ARCHIVED}'"
TIMELINE = "gateway.archived_timelines"

ARCHIVES = (
    *_changed(
        "archived_timelines_are_whole",
        ARCHIVED,
        TIMELINE,
        OF_ARCHIVED,
        "entries = entries - 1",
        """entries = jsonb_set(entries, '{{0,2}}', '"cancelled"')""",
        "user_id = '{user}'",
        "last_sequence = 2",
        "content_hash = sha256('')",
    ),
    _gone("archived_timelines_are_whole", ARCHIVED, TIMELINE, OF_ARCHIVED),
    # A timeline that no archive took.
    PlantedViolation(
        "archived_timelines_are_whole",
        "{failed}",
        (
            f"INSERT INTO {TIMELINE} SELECT '{{failed}}', archive_id, '{{user}}', last_sequence, entries, content_hash"
            f" FROM {TIMELINE}",
        ),
    ),
    PlantedViolation("archived_timelines_are_whole", ARCHIVED, ("DELETE FROM gateway.timeline_archives",)),
    *_changed(
        "archived_timelines_are_whole",
        "{failed}",
        "gateway.timeline_archives",
        "true",
        "generation_ids = generation_ids || '{failed}'::uuid",
    ),
    # A timeline and its hash, both made anew.
    PlantedViolation(
        "archives_add_up",
        ARCHIVE,
        (
            f"UPDATE {TIMELINE} SET entries = entries - 1",
            f"UPDATE {TIMELINE} SET content_hash = sha256(convert_to("
            "concat_ws(' ', generation_id, user_id, last_sequence, entries), 'UTF8'))",
        ),
    ),
    *_changed(
        "archives_add_up",
        ARCHIVE,
        "gateway.timeline_archives",
        "true",
        "captured_credits = captured_credits + 1",
        "entry_count = entry_count - 1",
        "content_hash = sha256('')",
    ),
    *_changed("archives_add_up", ARCHIVE, "billing.reservations", OF_ARCHIVED, "captured_credits = 29"),
    _gone("archived_orders_have_ended", ARCHIVED, "gateway.generations", OF_ARCHIVED),
    *_changed(
        "archived_orders_have_ended",
        ARCHIVED,
        "gateway.generations",
        OF_ARCHIVED,
        "status = 'running'",
        "user_id = '{user}'",
    ),
    # Half here and half there.
    PlantedViolation(
        "archived_orders_have_ended",
        ARCHIVED,
        (
            "INSERT INTO gateway.activity (user_id, sequence, message_id, subject_id, event, name, data, occurred_at)"
            f" VALUES ('{{debtor}}', 2, gen_random_uuid(), '{ARCHIVED}', 'generation.updated', 'running', '{{{{}}}}',"
            " now())",
        ),
    ),
    # Dropped before its time.
    _gone("verifications_stay_a_month", "{delivered}", "storage.verifications", OF_DELIVERED),
    *_changed(
        "verifications_stay_a_month",
        "{delivered}",
        "storage.verifications",
        OF_DELIVERED,
        "answered_at = NULL, next_try_at = now() + interval '1 hour'",
        "user_id = '{other_user}'",
    ),
    *_changed(
        "verifications_stay_a_month", ARCHIVED, "storage.assets", OF_ARCHIVED, "stored_at = now() - interval '29 days'"
    ),
)

PLANTED_VIOLATIONS = (*LEDGER, *ORDERS, *MONEY, *DEADLINES, *VIEWS, *MESSAGES, *ARCHIVES)
