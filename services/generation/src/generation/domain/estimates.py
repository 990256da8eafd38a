"""When an order will probably begin and be delivered: a forecast, times what forecasts have been worth."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final
from uuid import UUID

from contracts.values import Lane
from generation.domain.fair_forecast import BusySlot, EndpointState, WaitingOrder, forecast
from generation.domain.measured_times import Distribution, MeasuredTimes
from generation.domain.order import Order

MEDIAN: Final = 0.5
NINE_OF_TEN: Final = 0.9
UNPLANNED_SECONDS: Final = 60.0
"""For an order that came before its plan was written down."""
_SHORTEST_PLAN_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Likely:
    """Seconds from the moment of the estimate: as likely more as less, and in nine of ten cases less."""

    p50: float
    p90: float


@dataclass(frozen=True, slots=True)
class OrderEstimate:
    """What an order may expect. ``position`` while it waits in the queue, ``start`` until a worker has begun.

    ``forecast_seconds`` is the forecast of the start before its correction: what is measured against the truth. None
    where it rests on assumptions, which would be corrected for long after they have been replaced.
    """

    generation_id: UUID
    user_id: UUID
    completion: Likely
    start: Likely | None = None
    position: int | None = None
    forecast_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ActiveOrder:
    """An order with a live attempt: for how long that has been prepared, and running, in seconds."""

    generation_id: UUID
    user_id: UUID
    lane: Lane
    model_id: str
    planned_seconds: float | None
    prepared_seconds: float
    running_seconds: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a delivered order says about the next ones; None where it does not say it."""

    handover_seconds: float | None
    run_ratio: float | None
    storing_seconds: float | None


def estimate_active(order: ActiveOrder, times: MeasuredTimes) -> OrderEstimate:
    """The rest of what is under way. What has lasted longer than usual is expected to end later, never earlier."""
    run = _run(times, order.model_id, order.lane, order.planned_seconds)
    storing = _likely(times.distribution("storing", order.model_id, order.lane))
    if order.running_seconds is not None:
        rest = _rest(run, order.running_seconds)
        return OrderEstimate(order.generation_id, order.user_id, _together([rest, storing]))
    start = _rest(times.distribution("handover", order.model_id, order.lane), order.prepared_seconds)
    return OrderEstimate(order.generation_id, order.user_id, _together([start, _likely(run), storing]), start)


def busy_slot(order: ActiveOrder, times: MeasuredTimes) -> BusySlot:
    """When the place of an order under way is probably free."""
    run = _run(times, order.model_id, order.lane, order.planned_seconds)
    if order.running_seconds is not None:
        seconds = _rest(run, order.running_seconds).p50
    else:
        handover = times.distribution("handover", order.model_id, order.lane)
        seconds = _rest(handover, order.prepared_seconds).p50 + run.mean
    return BusySlot(order.user_id, order.lane, seconds)


def estimate_waiting(state: EndpointState, times: MeasuredTimes, used_share: float = 1.0) -> list[OrderEstimate]:
    """What waits, in the order in which it will be served.

    ``used_share`` is the share of the endpoint's places that are taken while work waits: between the end of one job and
    the claim of the next a place is free.
    """

    def occupied_seconds(order: WaitingOrder, lane: Lane) -> float:
        handover = times.distribution("handover", order.model_id, lane)
        return (handover.mean + _run(times, order.model_id, lane, order.planned_seconds).mean) / used_share

    estimates = []
    for turn in forecast(state, occupied_seconds):
        model_id, lane = turn.order.model_id, turn.lane
        handover = times.distribution("handover", model_id, lane)
        expected = turn.seconds + handover.quantile(MEDIAN)
        worth = times.distribution("wait", model_id, lane)
        start = Likely(_corrected(expected, worth.quantile(MEDIAN)), _corrected(expected, worth.quantile(NINE_OF_TEN)))
        parts = [
            start,
            _likely(_run(times, model_id, lane, turn.order.planned_seconds)),
            _likely(times.distribution("storing", model_id, lane)),
        ]
        known = times.is_measured("run", model_id) and times.is_measured("handover", model_id)
        estimates.append(
            OrderEstimate(
                turn.order.generation_id,
                turn.user_id,
                _together(parts),
                start,
                turn.position,
                expected if known else None,
            )
        )
    return estimates


def wait_ratio(forecast_seconds: float, actual_seconds: float) -> float:
    """How much longer it took than was forecast. The second more keeps short waits from counting for everything."""
    return (actual_seconds + 1.0) / (forecast_seconds + 1.0)


def measure(order: Order) -> Measured:
    """What an order that was just delivered tells: of the attempt whose file it is."""
    attempt = next((one for one in order.attempts if one.attempt_number == order.verifying_number), None)
    if attempt is None or attempt.ended_at is None or order.finished_at is None:
        return Measured(None, None, None)
    run_seconds = attempt.worker_seconds
    if attempt.started_at is not None:
        run_seconds = (attempt.ended_at - attempt.started_at).total_seconds()
    handover = ratio = None
    if run_seconds is not None:
        ratio = max(0.0, run_seconds) / _planned(order.planned_seconds)
        if attempt.prepared_at is not None:
            handover = max(0.0, (attempt.ended_at - attempt.prepared_at).total_seconds() - run_seconds)
    return Measured(handover, ratio, max(0.0, (order.finished_at - attempt.ended_at).total_seconds()))


def _corrected(expected_seconds: float, ratio: float) -> float:
    return max(0.0, (expected_seconds + 1.0) * ratio - 1.0)


def _planned(seconds: float | None) -> float:
    return UNPLANNED_SECONDS if seconds is None else max(_SHORTEST_PLAN_SECONDS, seconds)


def _run(times: MeasuredTimes, model_id: str, lane: Lane, planned_seconds: float | None) -> Distribution:
    return times.distribution("run", model_id, lane).times(_planned(planned_seconds))


def _likely(seconds: Distribution) -> Likely:
    return Likely(seconds.quantile(MEDIAN), seconds.quantile(NINE_OF_TEN))


def _rest(seconds: Distribution, elapsed: float) -> Likely:
    return Likely(*(seconds.quantile_beyond(share, elapsed) - elapsed for share in (MEDIAN, NINE_OF_TEN)))


def _together(parts: Sequence[Likely]) -> Likely:
    """One after the other. They are late independently, so that not all of them are late at once."""
    p50 = sum(part.p50 for part in parts)
    return Likely(p50, p50 + sqrt(_squares(part.p90 - part.p50 for part in parts)))


def _squares(numbers: Iterable[float]) -> float:
    return sum(number * number for number in numbers)
