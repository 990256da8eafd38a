"""Which rows of payments are leased work, and what a claimed row carries."""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from messaging.leases import Claim, LeasedTable
from payments.tables import payment_transactions, provider_events, refunds, sweeps

Row = TypeVar("Row")

PAYMENTS: Final = LeasedTable(payment_transactions, due_at="next_look_at", tries="looks")
REFUNDS: Final = LeasedTable(refunds, due_at="next_try_at")
EVENTS: Final = LeasedTable(provider_events, due_at="next_match_at", tries="match_attempts")
SWEEPS: Final = LeasedTable(sweeps)


@dataclass(frozen=True, slots=True)
class Claimed(Generic[Row]):
    """A row, as it was when this process claimed it, and the right to work on it."""

    claim: Claim
    row: Row
