"""What waits, measured now and then."""

from collections.abc import Sequence

from messaging.transaction import Transactions
from payments import metrics
from payments.repository import measurements


async def measure(transactions: Transactions, providers: Sequence[str]) -> None:
    """Set the gauges. A sweep is made by one replica, so that all of them read when it was."""
    async with transactions.begin() as tx:
        measured = await measurements.get_measurements(tx.connection)
    metrics.due_oldest_seconds.set(measured.due_oldest_seconds)
    metrics.open_reviews.set(measured.open_reviews)
    for name, finished_at in measured.sweeps.items():
        sweep, _, provider = name.partition(":")
        if provider in providers and sweep in metrics.SWEEPS:
            metrics.last_sweep_seconds.labels(sweep, provider).set(finished_at.timestamp())
