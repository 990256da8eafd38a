"""What billing announces, and the commands it takes."""

from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID, uuid5

from contracts.message import Message, Service
from contracts.values import GenerationOrder, LedgerLine

RefusalCode = Literal[
    "insufficient_credits",  # the order costs more than is available
    "account_frozen",  # a receivable is open
    "cancelled",  # the user cancelled the order before its credits were reserved
    "expired",  # the order's deadline passed before its credits were reserved
]


class CreditsReserved(Message, frozen=True, kw_only=True):
    """The price of an order moved from available to reserved. Carries the whole order, all that generation needs."""

    subject: ClassVar[str] = "billing.event.credits-reserved.v1"
    producers: ClassVar[tuple[Service, ...]] = ("billing",)
    consumers: ClassVar[tuple[Service, ...]] = ("generation", "gateway", "auditor")

    reservation_id: UUID
    order: GenerationOrder
    line: LedgerLine


class CreditsRefused(Message, frozen=True, kw_only=True):
    """An order could not be funded, or was withdrawn before it was; nothing moved.

    ``required_credits`` is the price of the whole order: of all the variants that were to be funded together.
    """

    subject: ClassVar[str] = "billing.event.credits-refused.v1"
    producers: ClassVar[tuple[Service, ...]] = ("billing",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    code: RefusalCode
    required_credits: int
    available_credits: int
    refused_at: datetime


class CreditsCaptured(Message, frozen=True, kw_only=True):
    """Delivered work was charged. ``lines`` holds the capture and, for a partial capture, the release of the rest."""

    subject: ClassVar[str] = "billing.event.credits-captured.v1"
    producers: ClassVar[tuple[Service, ...]] = ("billing",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    reservation_id: UUID
    generation_id: UUID
    user_id: UUID
    captured_credits: int
    released_credits: int
    lines: tuple[LedgerLine, ...]


class CreditsReleased(Message, frozen=True, kw_only=True):
    """A reservation was given back whole: the work failed, was cancelled or ran out of time.

    ``lines`` holds the release, and after it the settlement of a receivable or the expiry of a grant whose time came
    while the credits were reserved.
    """

    subject: ClassVar[str] = "billing.event.credits-released.v1"
    producers: ClassVar[tuple[Service, ...]] = ("billing",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    reservation_id: UUID
    generation_id: UUID
    user_id: UUID
    released_credits: int
    lines: tuple[LedgerLine, ...]


class GrantCredits(Message, frozen=True, kw_only=True):
    """Credit a user. ``grant_id`` makes it happen once; the same id with other content is refused and dead-lettered."""

    subject: ClassVar[str] = "billing.command.grant-credits.v1"
    producers: ClassVar[tuple[Service, ...]] = ("payments",)
    consumers: ClassVar[tuple[Service, ...]] = ("billing", "auditor")

    grant_id: UUID
    user_id: UUID
    amount_credits: int
    reason: Literal["purchase", "bonus", "signup", "goodwill", "dispute_won", "refund_failed"]
    actor: str
    payment_id: UUID | None = None
    note: str | None = None
    expires_at: datetime | None = None


class GrantSignupCredits(Message, frozen=True, kw_only=True):
    """Credit a user who signed up, once ever. Billing has a largest amount of its own, and refuses more."""

    subject: ClassVar[str] = "billing.command.grant-signup-credits.v1"
    producers: ClassVar[tuple[Service, ...]] = ("gateway",)
    consumers: ClassVar[tuple[Service, ...]] = ("billing", "auditor")

    user_id: UUID
    amount_credits: int

    @property
    def grant_id(self) -> UUID:
        """The id of the grant that comes of it."""
        return signup_grant_id(self.user_id)


def signup_grant_id(user_id: UUID) -> UUID:
    """The id of the one grant that a user's sign-up can have: it follows from the user, so there is no second."""
    return uuid5(user_id, "signup")


class CreditsGranted(Message, frozen=True, kw_only=True):
    """Credits arrived. ``lines`` holds the grant and, where a receivable was open, its settlement."""

    subject: ClassVar[str] = "billing.event.credits-granted.v1"
    producers: ClassVar[tuple[Service, ...]] = ("billing",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "payments", "auditor")

    grant_id: UUID
    user_id: UUID
    amount_credits: int
    payment_id: UUID | None = None
    lines: tuple[LedgerLine, ...]


class ClawBackCredits(Message, frozen=True, kw_only=True):
    """Take back the credits of a refunded or disputed payment. ``clawback_id`` makes it happen once.

    What is no longer available becomes a receivable, and new spending is frozen until it is settled.
    """

    subject: ClassVar[str] = "billing.command.claw-back-credits.v1"
    producers: ClassVar[tuple[Service, ...]] = ("payments",)
    consumers: ClassVar[tuple[Service, ...]] = ("billing", "auditor")

    clawback_id: UUID
    user_id: UUID
    payment_id: UUID
    amount_credits: int
    reason: Literal["refund", "dispute"]
    note: str | None = None


class CreditsClawedBack(Message, frozen=True, kw_only=True):
    """Credits of a payment were taken back; ``receivable_credits`` of them could not be and are owed."""

    subject: ClassVar[str] = "billing.event.credits-clawed-back.v1"
    producers: ClassVar[tuple[Service, ...]] = ("billing",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "payments", "auditor")

    clawback_id: UUID
    user_id: UUID
    payment_id: UUID
    clawed_back_credits: int
    receivable_credits: int
    lines: tuple[LedgerLine, ...]


class CreditsExpired(Message, frozen=True, kw_only=True):
    """What was left of a grant ran out of time."""

    subject: ClassVar[str] = "billing.event.credits-expired.v1"
    producers: ClassVar[tuple[Service, ...]] = ("billing",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    grant_id: UUID
    user_id: UUID
    expired_credits: int
    lines: tuple[LedgerLine, ...]


class LedgerHeadPublished(Message, frozen=True, kw_only=True):
    """The sealed ledger has ``tree_size`` postings, and this is the root over them: what receipts lead to.

    It cannot be taken back: the gateway and the auditor each keep it under a role of their own. Of two heads the longer
    one contains the shorter one. ``root_hash`` is in hexadecimal.
    """

    subject: ClassVar[str] = "billing.event.ledger-head-published.v1"
    producers: ClassVar[tuple[Service, ...]] = ("billing",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    tree_size: int
    root_hash: str
    published_at: datetime
