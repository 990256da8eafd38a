"""To which users an id belongs, as SQL: the id of an order, a payment, a message, or anything that is part of one."""

from typing import Final

from auditor.schemas import for_each_schema


def owners_of(column: str) -> str:
    """The users to whom the id of an order, a payment or a grant belongs, by any service; or the user itself."""
    return f"""
        SELECT {column}
        UNION ALL SELECT user_id FROM gateway.generation_requests WHERE generation_id = {column}
        UNION ALL SELECT user_id FROM generation.video_generations WHERE generation_id = {column}
        UNION ALL SELECT user_id FROM gateway.payment_requests WHERE payment_id = {column}
        UNION ALL SELECT user_id FROM payments.payment_transactions WHERE payment_id = {column}
        UNION ALL SELECT user_id FROM billing.balance_ledger WHERE generation_id = {column}
        UNION ALL SELECT user_id FROM billing.balance_ledger WHERE payment_id = {column}
        UNION ALL SELECT user_id FROM billing.balance_ledger WHERE grant_id = {column}
    """  # noqa: S608 - a column of the queries below


def message_of(column: str, wanted: str) -> str:
    """``wanted`` of the message with this id, from the outboxes and from the journal."""
    sent = for_each_schema(f"SELECT {wanted} FROM {{schema}}.outbox_messages WHERE message_id = {column}")  # noqa: S608
    return f"{sent} UNION ALL SELECT {wanted} FROM auditor.journal WHERE message_id = {column}"  # noqa: S608


def owners_of_message(column: str) -> str:
    """The users about whom the message with this id is."""
    return f"""
        SELECT user_id FROM auditor.journal WHERE message_id = {column}
        UNION ALL SELECT owner FROM ({message_of(column, "correlation_id")}) AS about
            CROSS JOIN LATERAL ({owners_of("about.correlation_id")}) AS of_it (owner)
    """  # noqa: S608 - as above


OWNERS_OF_PART: Final = f"""
    {owners_of("part")}
    UNION ALL {owners_of_message("part")}
    UNION ALL SELECT user_id FROM billing.reservations WHERE reservation_id = part
    UNION ALL SELECT user_id FROM billing.balance_ledger WHERE transfer_id = part
    UNION ALL SELECT user_id FROM billing.grants WHERE grant_id = part
    UNION ALL SELECT user_id FROM billing.clawbacks WHERE clawback_id = part
    UNION ALL SELECT user_id FROM generation.attempts JOIN generation.video_generations USING (generation_id)
        WHERE attempt_id = part
    UNION ALL SELECT user_id FROM storage.assets WHERE asset_id = part
    UNION ALL SELECT user_id FROM gateway.uploads WHERE upload_id = part
    UNION ALL SELECT user_id FROM payments.credit_movements JOIN payments.payment_transactions USING (payment_id)
        WHERE movement_id = part
    UNION ALL SELECT user_id FROM payments.refunds JOIN payments.payment_transactions USING (payment_id)
        WHERE refund_id = part
    UNION ALL SELECT user_id FROM payments.reviews JOIN payments.payment_transactions USING (payment_id)
        WHERE review_id = part
"""  # noqa: S608 - as above
"""The users to whom anything belongs that a finding may be about."""
