"""A user wants to buy a pack: the payment is written down, or refused before any provider is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from catalogue.credit_packs import CreditPack
from contracts.payments import CreatePayment, PaymentRefusalCode, PaymentRefused, Provider
from messaging.consumers import Handler
from messaging.received import Received
from messaging.transaction import Transaction
from payments.handlers.announcements import announce
from payments.repository import payments
from payments.wake_ups import WakeUps


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be bought here, and within which limits."""

    packs: Mapping[str, CreditPack]
    providers: frozenset[Provider]
    max_open_payments: int
    lifetime: timedelta


def create_payment(policy: Policy, wake_ups: WakeUps) -> Handler:
    """Build the handler of ``CreatePayment``: write the payment down; its checkout is opened after the commit."""

    async def handle(tx: Transaction, messages: Sequence[Received[CreatePayment]]) -> None:
        await payments.lock_payers(tx.connection, [message.payload.user_id for message in messages])
        for message in messages:
            await _create(tx, message, policy)
            tx.after_commit(wake_ups.polls[message.payload.provider].set)

    return handle


async def _create(tx: Transaction, message: Received[CreatePayment], policy: Policy) -> None:
    command = message.payload
    if await payments.find_payment(tx.connection, command.payment_id) is not None:
        return
    refusal = await _refusal(tx, command, policy)
    if refusal is not None:
        tx.publish(refusal, correlation_id=command.payment_id, cause=message)
        return
    payment = await payments.add_payment(
        tx.connection,
        payment_id=command.payment_id,
        user_id=command.user_id,
        provider=command.provider,
        pack=policy.packs[command.pack_id],
        lifetime=policy.lifetime,
        return_url=command.return_url,
        traceparent=message.traceparent,
    )
    if payment is not None:
        announce(tx, payment, "created", payment.created_at, cause=message)


async def _refusal(tx: Transaction, command: CreatePayment, policy: Policy) -> PaymentRefused | None:
    if command.pack_id not in policy.packs:
        return _refused(command, "unknown_pack", f"there is no credit pack '{command.pack_id}'")
    if command.provider not in policy.providers:
        return _refused(command, "provider_disabled", f"payments by {command.provider} are not offered here")
    open_payments = await payments.count_open(tx.connection, command.user_id)
    if open_payments >= policy.max_open_payments:
        detail = f"{open_payments} payments are open: finish one or let it expire first"
        return _refused(command, "too_many_open_payments", detail)
    return None


def _refused(command: CreatePayment, code: PaymentRefusalCode, detail: str) -> PaymentRefused:
    return PaymentRefused(payment_id=command.payment_id, user_id=command.user_id, code=code, detail=detail)
