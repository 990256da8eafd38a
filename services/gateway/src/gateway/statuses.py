"""The statuses of the gateway's read models, and what each one means to the user.

The aggregates live elsewhere: generation and payments decide. The gateway adds what it alone knows (``requested``,
``refused``) and shows the rest. ``docs/api.md`` prints both mappings; ``make docs`` writes them there.
"""

from collections.abc import Mapping
from typing import Final, Literal

from contracts.billing import RefusalCode
from contracts.payments import PaymentStatus as DrivenPaymentStatus
from contracts.statuses import StatusMeaning

GenerationStatus = Literal[
    "requested",
    "refused",
    "queued",
    "dispatching",
    "running",
    "storing",
    "completed",
    "failed",
    "cancelling",
    "cancelled",
]
PaymentStatus = Literal[DrivenPaymentStatus, "refused"]

TERMINAL: Final[frozenset[GenerationStatus]] = frozenset({"refused", "completed", "failed", "cancelled"})
"""A generation in one of these statuses does not change any more, except for a file that arrives late."""

WITHDRAWN: Final[frozenset[RefusalCode]] = frozenset({"cancelled", "expired"})
"""Billing's refusals of orders that the gateway withdrew."""

_NONE: Final = "none"


def status_of_refusal(code: RefusalCode) -> Literal["refused", "cancelled"]:
    """How an order ends that billing refused: what its user cancelled is not shown as a refusal."""
    return "cancelled" if code == "cancelled" else "refused"


GENERATION_STATUS_MEANING: Final[Mapping[GenerationStatus, StatusMeaning]] = {
    "requested": StatusMeaning(
        set_by="the order, in the transaction that announces it",
        ended_by="billing's verdict and then generation's queue, the refusal, or a cancel",
        deadline="`expires_at` or `start_before_at`: then the gateway withdraws it, and billing refuses what it has not"
        " reserved",
        user_sees="The order is written down. The answer was 201 if the credits were reserved in time, else 202.",
    ),
    "refused": StatusMeaning(
        set_by="billing's refusal, also of an order that it did not answer before `expires_at`",
        ended_by="nothing: it is final",
        deadline=_NONE,
        user_sees="The order was not funded: `failure.code` says why. No credit moved.",
    ),
    "queued": StatusMeaning(
        set_by="generation, when the order is funded and after each attempt that will be repeated",
        ended_by="the order's turn, a cancel, or the deadline",
        deadline="`expires_at`, or `start_before_at`",
        user_sees="The order waits for its turn; `queue_position` and the estimates say when. A cancel takes effect at"
        " once.",
    ),
    "dispatching": StatusMeaning(
        set_by="generation, when the provider accepts the job",
        ended_by="the start of the work, a failed attempt, a cancel, or the deadline",
        deadline="`expires_at`, or `start_before_at`",
        user_sees="The order goes to a GPU worker.",
    ),
    "running": StatusMeaning(
        set_by="generation, when a worker begins",
        ended_by="the worker's result, a failed attempt, a cancel, or the deadline",
        deadline="`expires_at`, and the model's limit for one attempt",
        user_sees="The worker renders. `generation.progress` tells how far it is.",
    ),
    "storing": StatusMeaning(
        set_by="generation, when a worker reports its file",
        ended_by="storage: the file is stored, or it is rejected",
        deadline="10 minutes, and at least `expires_at`",
        user_sees="The file is being checked. It is too late to cancel.",
    ),
    "completed": StatusMeaning(
        set_by="generation, when the checked file is in the library",
        ended_by="nothing: it is final",
        deadline=_NONE,
        user_sees="`download` has links to the file. `captured_credits` is the charge; `late` means free.",
    ),
    "failed": StatusMeaning(
        set_by="generation, when no file will come",
        ended_by="only a good file that arrives late: then `completed`, free of charge",
        deadline=_NONE,
        user_sees="`failure.code` says why. The credits come back.",
    ),
    "cancelling": StatusMeaning(
        set_by="generation, when it accepts a cancel of work that a worker has",
        ended_by="the provider's word that the work has stopped",
        deadline="45 seconds; then it is `cancelled`, and the worker is told again to stop",
        user_sees="The work is being stopped.",
    ),
    "cancelled": StatusMeaning(
        set_by="generation, when the cancel is done; billing, if no credits were reserved yet",
        ended_by="only a good file that arrives late: then `completed`, free of charge",
        deadline=_NONE,
        user_sees="The user's cancel took effect. The credits come back.",
    ),
}

PAYMENT_STATUS_MEANING: Final[Mapping[PaymentStatus, StatusMeaning]] = {
    "created": StatusMeaning(
        set_by="the purchase, in the transaction that asks payments for it",
        ended_by="the provider's answer, or a refusal",
        deadline="the provider is asked again until the payment's time is over",
        user_sees="The checkout is not open yet: repeat with the same key, or follow the events.",
    ),
    "pending": StatusMeaning(
        set_by="payments, when the provider opens the checkout",
        ended_by="the payment, or its expiry",
        deadline="`expires_at`",
        user_sees="`checkout_url` is where to pay. A payment that is on its way stays `pending`.",
    ),
    "settled": StatusMeaning(
        set_by="payments, when the provider confirms the money on a lookup",
        ended_by="a refund or a dispute, if there ever is one",
        deadline=_NONE,
        user_sees="The credits are granted. `credits_granted` in the timeline says how many.",
    ),
    "failed": StatusMeaning(
        set_by="payments: the provider refuses the checkout, or an operator dismisses a review",
        ended_by="only money that arrives all the same: then `review` or `settled`",
        deadline=_NONE,
        user_sees="Nothing was bought. `detail` may say why.",
    ),
    "expired": StatusMeaning(
        set_by="payments, when the provider closes the unpaid checkout",
        ended_by="only money that arrives all the same: then `review` or `settled`",
        deadline=_NONE,
        user_sees="Nobody paid in time. Begin a new purchase.",
    ),
    "review": StatusMeaning(
        set_by="payments: money arrived, but not as agreed (too little, too late, another currency)",
        ended_by="an operator's decision, or the rest of the money",
        deadline="none: a person decides",
        user_sees="The money is safe. Somebody looks at it.",
    ),
    "partially_refunded": StatusMeaning(
        set_by="payments, when the provider shows a partial refund",
        ended_by="a further refund, or a dispute",
        deadline=_NONE,
        user_sees="`refunded_cents` went back, and the credits for it were taken back.",
    ),
    "refunded": StatusMeaning(
        set_by="payments, when the provider shows a full refund",
        ended_by="nothing, unless the refund fails at the provider",
        deadline=_NONE,
        user_sees="The whole price went back, and the credits were taken back.",
    ),
    "disputed": StatusMeaning(
        set_by="payments, when the buyer's bank disputes the payment",
        ended_by="the bank's decision: `dispute_lost`, or `settled` again",
        deadline="none here: the bank has its own",
        user_sees="The credits are taken back until the dispute is decided.",
    ),
    "dispute_lost": StatusMeaning(
        set_by="payments, when the bank decides for the buyer",
        ended_by="only a bank that changes its decision",
        deadline=_NONE,
        user_sees="The price went back, and the credits stay taken back.",
    ),
    "refused": StatusMeaning(
        set_by="payments, which did not begin the purchase",
        ended_by="nothing: it is final",
        deadline=_NONE,
        user_sees="Nothing was asked of the provider. `payment_refused` carries the `reason`.",
    ),
}
