"""Credits move only by movements: each is requested of billing once, and marked when the ledger has it."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from contracts.billing import ClawBackCredits, CreditsClawedBack, CreditsGranted, GrantCredits
from messaging.ids import derived_id
from messaging.received import Received
from messaging.transaction import Transaction
from payments.domain.payment_state import Movement
from payments.domain.records import PaymentRecord
from payments.repository import credit_movements, reviews
from service_runtime.indicators import CREDITED_IN_TIME, CREDITED_SECONDS

MOVEMENT_NAMESPACE: Final = UUID("5b3f8a1e-7f0c-4f57-9d43-2f2a6c1d9e10")
"""Grant and clawback ids are derived from payment, kind and reference under this name: the same effect, the same id."""


async def request_movements(tx: Transaction, payment: PaymentRecord, movements: Sequence[Movement]) -> None:
    """Write down the movements that are new, and request exactly those of billing."""
    identified = [(movement_id(payment.payment_id, movement), movement) for movement in movements]
    fresh = await credit_movements.add_movements(tx.connection, payment.payment_id, identified)
    for identity, movement in identified:
        if identity in fresh:
            command = _command(payment, identity, movement)
            tx.publish(command, correlation_id=payment.payment_id, traceparent=payment.traceparent)


async def mark_granted(tx: Transaction, messages: Sequence[Received[CreditsGranted]]) -> None:
    """Billing's ledger has these grants."""
    took = await _mark_posted(tx, [message.payload.grant_id for message in messages])

    def committed() -> None:
        for seconds in took.values():
            CREDITED_IN_TIME.count(good=seconds <= CREDITED_SECONDS)

    tx.after_commit(committed)


async def mark_clawed_back(tx: Transaction, messages: Sequence[Received[CreditsClawedBack]]) -> None:
    """Billing's ledger has these clawbacks."""
    await _mark_posted(tx, [message.payload.clawback_id for message in messages])


async def _mark_posted(tx: Transaction, movement_ids: Sequence[UUID]) -> Mapping[UUID, float]:
    took = await credit_movements.mark_posted(tx.connection, movement_ids)
    if took:
        await reviews.heal_unposted(tx.connection, list(took))
    return took


def movement_id(payment_id: UUID, movement: Movement) -> UUID:
    """The id of a grant or clawback: equal effects have equal ids, wherever and whenever they are found."""
    return derived_id(MOVEMENT_NAMESPACE, f"{payment_id}/{movement.kind}/{movement.reference}")


def _command(payment: PaymentRecord, identity: UUID, movement: Movement) -> GrantCredits | ClawBackCredits:
    note = f"{payment.provider} {movement.reference}".strip()
    if movement.kind == "refund" or movement.kind == "dispute":
        return ClawBackCredits(
            clawback_id=identity,
            user_id=payment.user_id,
            payment_id=payment.payment_id,
            amount_credits=movement.amount_credits,
            reason=movement.kind,
            note=note,
        )
    return GrantCredits(
        grant_id=identity,
        user_id=payment.user_id,
        amount_credits=movement.amount_credits,
        reason=movement.kind,
        actor="payments",
        payment_id=payment.payment_id,
        note=note,
    )
