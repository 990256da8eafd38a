"""What each status of a payment, a refund and a dispute means."""

from collections.abc import Mapping
from typing import Final

from contracts.payments import PaymentStatus
from contracts.statuses import StatusMeaning
from payments.domain.snapshots import DisputeState, RefundState

PAYMENT_STATUS_MEANING: Final[Mapping[PaymentStatus, StatusMeaning]] = {
    "created": StatusMeaning(
        set_by="the handler of create-payment",
        ended_by="the first poll: the provider opens the checkout (`pending`) or refuses it (`failed`)",
        deadline="a poll is due at once; without an answer it is repeated, at most 5 minutes later each time",
        user_sees="the purchase without a `checkout_url`",
    ),
    "pending": StatusMeaning(
        set_by="the poll that opened the checkout",
        ended_by="a snapshot that says paid, expired or failed, or that shows money that does not match",
        deadline="polled each minute, later every 5 minutes; `expired` at the latest 10 minutes after `expires_at`",
        user_sees="`checkout_url`; a payment that the bank or the chain still processes stays `pending`",
    ),
    "settled": StatusMeaning(
        set_by="a snapshot that says paid, or an operator who credits a review",
        ended_by="a refund or a dispute that a later snapshot shows",
        deadline="none; the daily comparison checks it for 30 days",
        user_sees="the credits, as soon as billing has posted them",
    ),
    "failed": StatusMeaning(
        set_by="a provider that refuses the checkout or says failed, or an operator who dismisses a review",
        ended_by="only money that is found all the same: `settled`, or `review` after a dismissal",
        deadline="none",
        user_sees="the end of the purchase; `detail` says why if no checkout could be opened",
    ),
    "expired": StatusMeaning(
        set_by="a snapshot that says so, or a checkout that is open 10 minutes after `expires_at`",
        ended_by="only money that is found all the same: `settled` or `review`",
        deadline="polled each hour for 3 days, because coins may still arrive",
        user_sees="the end of the purchase",
    ),
    "review": StatusMeaning(
        set_by="a snapshot with money that does not match: too little, too late, another currency",
        ended_by="an operator's decision (`settled` or `failed`), or the rest of the money (`settled`)",
        deadline="none: a person decides; the auditor reports a review that is open for more than a day",
        user_sees="that the payment is looked at; no credits yet",
    ),
    "partially_refunded": StatusMeaning(
        set_by="a snapshot with refunds of less than the basis",
        ended_by="a further refund, a refund that fails, or a dispute",
        deadline="none",
        user_sees="`refunded_cents`, and the credits for it taken back",
    ),
    "refunded": StatusMeaning(
        set_by="a snapshot with refunds of the whole basis",
        ended_by="only a refund that fails at the provider, or money that is paid again",
        deadline="none",
        user_sees="all credits of the payment taken back",
    ),
    "disputed": StatusMeaning(
        set_by="a snapshot with an open dispute: the bank has taken the money",
        ended_by="the bank's decision: back to what the refunds say if it is won, `dispute_lost` if not",
        deadline="the bank's, weeks away; a webhook or the sweep brings the decision",
        user_sees="the credits of the disputed money taken back until the decision",
    ),
    "dispute_lost": StatusMeaning(
        set_by="a snapshot with a lost dispute",
        ended_by="only a bank that changes its decision",
        deadline="none",
        user_sees="the credits of the disputed money taken back for good",
    ),
}

REFUND_STATE_MEANING: Final[Mapping[RefundState, StatusMeaning]] = {
    "requested": StatusMeaning(
        set_by="an operator's command",
        ended_by="the provider: it takes the refund (`pending`) or refuses it (`failed`, with a review)",
        deadline="sent at once; without an answer it is sent again within 5 minutes, under the same id",
        user_sees="no change: nothing has left yet",
    ),
    "pending": StatusMeaning(
        set_by="the provider's answer to a request, or a snapshot",
        ended_by="a snapshot that says succeeded or failed",
        deadline="the provider's",
        user_sees="the refund counted, and its credits taken back: the money is on its way",
    ),
    "succeeded": StatusMeaning(
        set_by="a snapshot, or an operator who records a refund that was paid out by hand",
        ended_by="only a bank that sends the money back: `failed`",
        deadline="none",
        user_sees="the refund in `refunded_cents`",
    ),
    "failed": StatusMeaning(
        set_by="a snapshot, or a provider that refuses the request",
        ended_by="final",
        deadline="none",
        user_sees="the credits that the refund took, given back",
    ),
}

DISPUTE_STATE_MEANING: Final[Mapping[DisputeState, StatusMeaning]] = {
    "warning": StatusMeaning(
        set_by="a snapshot with an inquiry: the bank asks and takes nothing yet",
        ended_by="the bank: it drops the inquiry, or opens a dispute",
        deadline="the bank's",
        user_sees="no change",
    ),
    "open": StatusMeaning(
        set_by="a snapshot with a dispute that is not decided: the bank has taken the money",
        ended_by="the bank's decision",
        deadline="the bank's, weeks away",
        user_sees="the payment as `disputed`, and its credits taken back",
    ),
    "won": StatusMeaning(
        set_by="a snapshot, after the bank decided for us",
        ended_by="only a bank that changes its decision",
        deadline="none",
        user_sees="the credits given back",
    ),
    "lost": StatusMeaning(
        set_by="a snapshot, after the bank decided for the buyer",
        ended_by="only a bank that changes its decision",
        deadline="none",
        user_sees="the payment as `dispute_lost`",
    ),
}
