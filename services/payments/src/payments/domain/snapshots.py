"""What a provider says about one payment at one moment, in our terms."""

from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from contracts.payments import PaymentMismatch

CheckoutState = Literal["open", "processing", "paid", "expired", "failed"]

UNREADABLE_EVENT: Final = "unreadable"
"""The type of an event that was signed by its provider, and is not of the documented shape: a person reads it."""

LARGEST_CENTS: Final = 2**31 - 1
"""No pack costs as much by far, and no amount of a provider is believed that is larger: it could not be stored."""

RefundState = Literal["requested", "pending", "succeeded", "failed"]
DisputeState = Literal["warning", "open", "won", "lost"]


@dataclass(frozen=True, slots=True)
class Checkout:
    """The provider's page on which the user pays: its id at the provider, and its address."""

    reference: str
    url: str


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """A webhook or a listed event, reduced to what finds its payment.

    ``payment_id`` where the body carries our own id; otherwise ``reference`` names the provider's object. ``body`` is
    raw.
    """

    event_id: str
    event_type: str
    payment_id: UUID | None
    reference: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class ProviderRefund:
    """A refund as the provider shows it. A ``pending`` one counts: its money is on the way out."""

    reference: str
    amount_cents: int
    currency: str
    state: RefundState
    refund_id: UUID | None = None
    """Our own id, if an operator requested it here."""

    def __post_init__(self) -> None:
        """Raises ValueError for an amount that nobody can have paid."""
        check_cents(self.amount_cents)


@dataclass(frozen=True, slots=True)
class ProviderDispute:
    """A dispute as the provider shows it. A ``warning`` moves no money; an ``open`` one has already taken it."""

    reference: str
    amount_cents: int
    currency: str
    state: DisputeState

    def __post_init__(self) -> None:
        """Raises ValueError for an amount that nobody can have paid."""
        check_cents(self.amount_cents)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the provider knows about one payment, at one moment. Currencies are in lower case.

    ``paid_cents`` is what arrived in the payment's own currency (crypto providers convert). ``charge_reference`` names
    the money at the provider where that is another object than the checkout (Stripe: the PaymentIntent).
    """

    reference: str
    state: CheckoutState
    paid_cents: int
    currency: str
    charge_reference: str | None = None
    mismatch: PaymentMismatch | None = None
    receipt_url: str | None = None
    refunds: tuple[ProviderRefund, ...] = ()
    disputes: tuple[ProviderDispute, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for an amount that nobody can have paid."""
        check_cents(self.paid_cents)


def check_cents(cents: int) -> None:
    """Raise ValueError unless an amount that a provider states is from 0 to ``LARGEST_CENTS``."""
    if not 0 <= cents <= LARGEST_CENTS:
        raise ValueError("a provider states an amount that nobody can have paid")
