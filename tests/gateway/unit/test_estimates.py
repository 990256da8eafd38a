"""Estimates as they are shown: the newest word, never the past, and only news is told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

import pytest

from contracts.live import OrderEstimate, QueueEstimates
from gateway.estimates import KEPT_FOR, Estimate, Estimates, Likely
from gateway.live_events import MAX_TOLD, Stream
from gateway.statuses import GenerationStatus

NOW: Final = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
USER, ORDER = uuid4(), uuid4()
SAID: Final = OrderEstimate(
    generation_id=ORDER, queue_position=4, start_seconds=(30.0, 60.0), completion_seconds=(90.0, 150.0)
)


def message(said: OrderEstimate = SAID, seconds: float = 0.0) -> QueueEstimates:
    return QueueEstimates(endpoint="video", made_at=NOW + timedelta(seconds=seconds), users={USER: (said,)})


def estimate(position: int | None = 4, *, start: float | None = 30.0, completion: float = 90.0) -> Estimate:
    def likely(seconds: float) -> Likely:
        return Likely(NOW + timedelta(seconds=seconds), NOW + timedelta(seconds=2 * seconds))

    return Estimate(position, None if start is None else likely(start), likely(completion))


def kept(*messages: QueueEstimates) -> Estimates:
    estimates = Estimates()
    for one in messages:
        estimates.keep(one)
    return estimates


def test_a_moment_that_has_passed_is_said_to_come_soon() -> None:
    now = NOW + KEPT_FOR
    said = replace_seconds(start=(1.0, 2.0), completion=(3.0, 60.0))
    found = kept(message(said)).find(USER, ORDER, "queued", now)
    assert found is not None
    assert found.start is not None
    assert now < found.start.p50_at <= found.start.p90_at
    assert now < found.completion.p50_at < found.completion.p90_at == NOW + timedelta(seconds=60)


def replace_seconds(start: tuple[float, float], completion: tuple[float, float]) -> OrderEstimate:
    return OrderEstimate(generation_id=ORDER, queue_position=1, start_seconds=start, completion_seconds=completion)


def test_an_older_message_of_another_replica_changes_nothing() -> None:
    later = OrderEstimate(generation_id=ORDER, queue_position=3, start_seconds=None, completion_seconds=(1.0, 2.0))
    found = kept(message(later, 2.0), message(SAID, 1.0)).find(USER, ORDER, "queued", NOW)
    assert found is not None
    assert found.queue_position == 3


def test_what_was_said_long_ago_or_to_another_is_not_found() -> None:
    estimates = kept(message())
    assert estimates.find(USER, ORDER, "queued", NOW + KEPT_FOR + timedelta(seconds=1)) is None
    assert estimates.find(uuid4(), ORDER, "queued", NOW) is None
    assert estimates.find(USER, uuid4(), "queued", NOW) is None


@pytest.mark.parametrize(
    ("status", "position", "start"),
    [("requested", 4, True), ("queued", 4, True), ("dispatching", None, True), ("running", None, False)],
)
def test_the_status_decides_what_is_still_open(status: GenerationStatus, position: int | None, *, start: bool) -> None:
    found = kept(message()).find(USER, ORDER, status, NOW)
    assert found is not None
    assert (found.queue_position, found.start is not None) == (position, start)


@pytest.mark.parametrize("status", ["storing", "completed", "failed", "cancelling", "cancelled", "refused"])
def test_what_has_ended_has_no_estimate(status: GenerationStatus) -> None:
    assert kept(message()).find(USER, ORDER, status, NOW) is None


@pytest.mark.parametrize(
    ("told", "differs"),
    [
        (estimate(), False),
        (estimate(completion=91.5), False),
        (estimate(completion=98.0), False),
        (estimate(completion=110.0), True),
        (estimate(position=3), True),
        (estimate(position=None, start=None), True),
    ],
)
def test_only_a_change_that_matters_is_told(told: Estimate, *, differs: bool) -> None:
    assert estimate().differs(told, NOW) is differs


def test_a_stream_sends_each_change_once_and_keeps_a_bounded_number() -> None:
    stream = Stream()
    for _ in range(3):
        stream.tell(ORDER, estimate(), NOW)
    assert [event.generation_id for event in stream.take_estimates()] == [ORDER]
    stream.tell(ORDER, replace(estimate(), queue_position=3), NOW)
    assert [event.queue_position for event in stream.take_estimates()] == [3]
    for _ in range(2 * MAX_TOLD):
        stream.tell(uuid4(), estimate(), NOW)
    assert len(stream.take_estimates()) == MAX_TOLD
