"""What every payment provider does for us. ``docs/adding-a-payment-provider.md`` says how to add one."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import ClassVar, Protocol, Self
from uuid import UUID

from contracts.payments import Provider
from payments.domain.records import PaymentRecord
from payments.domain.snapshots import Checkout, ProviderEvent, Snapshot
from payments.settings import Settings
from service_runtime.database_watch import DatabaseClock


class PaymentProvider(Protocol):
    """One provider.

    Every method that calls out may be repeated with the same arguments and has its effect once. It raises
    ``ProviderUnavailable`` if repeating may help, ``CredentialsRefused`` if an operator must correct the key first, and
    ``ProviderRefused`` if repeating cannot help. Any other error is a defect: it is counted, and the work is repeated.
    """

    name: ClassVar[Provider]
    max_webhook_bytes: ClassVar[int]
    """The largest body whose sender is proved; far above what the provider sends."""
    refunds_by_api: ClassVar[bool]
    """Whether ``refund`` pays out. If not, an operator pays out by hand and records it."""

    @classmethod
    def from_settings(cls, settings: Settings, clock: DatabaseClock, /) -> Self:
        """The adapter, connected to nothing yet; only called if the provider's settings are complete.

        ``clock`` tells how old a webhook is: this host's may be wrong, and would refuse every one.
        """
        ...

    async def open_checkout(self, payment: PaymentRecord) -> Checkout:
        """Open the one checkout of this payment. Calling it again finds the same one.

        ``payment.poll_count`` counts the tries, this one included.
        """
        ...

    async def look_up(self, payment: PaymentRecord) -> Snapshot:
        """The whole present state of a payment whose ``provider_reference`` is known."""
        ...

    async def refund(self, payment: PaymentRecord, refund_id: UUID, amount_cents: int) -> str:
        """Send money back; returns the provider's reference. Calling it again with the same id refunds once."""
        ...

    def prove_webhook(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check that the provider signed this body. Raises ``InvalidWebhookSignature``, and nothing else."""
        ...

    def read_webhook(self, body: bytes) -> ProviderEvent | None:
        """The event in a proven webhook; None if it is about no payment of ours.

        May raise anything that reading an object of another shape raises (``reading.read_or_set_aside``).
        """
        ...

    async def find_payment(self, event: ProviderEvent) -> UUID | None:
        """Our payment's id for an event whose body does not carry it; None if it is not ours."""
        ...

    def missed_events(self, since: datetime) -> AsyncIterator[ProviderEvent]:
        """The events since then, delivered or not; empty if the provider keeps no such list."""
        ...

    def recent_payments(self, since: datetime) -> AsyncIterator[tuple[UUID | None, Snapshot | None]]:
        """Every payment that the provider knows of since then, for the daily comparison.

        The id is None if the payment is not ours, the snapshot if it is unreadable.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
