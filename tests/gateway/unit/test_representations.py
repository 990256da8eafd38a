"""What clients are shown of a history."""

from datetime import UTC, datetime, timedelta

from gateway.records import HistoryRecord
from gateway.representations import represent_timeline


def test_the_time_between_two_steps_is_exact_to_the_microsecond() -> None:
    began = datetime(2026, 11, 28, 10, 42, 6, 622925, tzinfo=UTC)
    steps = [
        HistoryRecord(sequence=number, event="payment.updated", name=name, data={"name": name}, occurred_at=at)
        for number, (name, at) in enumerate((("created", began), ("paid", began + timedelta(microseconds=17_828_869))))
    ]
    assert [entry.since_previous_ms for entry in represent_timeline(steps).items] == [None, 17828.869]
