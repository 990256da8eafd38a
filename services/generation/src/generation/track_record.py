"""What was estimated, and what came of it: measured when an order is delivered, and shared by way of the database."""

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from generation.domain.estimates import Likely, OrderEstimate, measure, wait_ratio
from generation.domain.measured_times import WINDOW, Measure, MeasureKey
from generation.domain.order import Order
from generation.metrics import ESTIMATE_RATIO

_REMEMBERED: Final = 10_000
"""The orders whose estimates are remembered; about 5 MB."""
_SHORTEST_SECONDS: Final = 1.0
"""An estimate of less is compared as this much: nobody watches a clock for a second."""


@dataclass(slots=True)
class _Given:
    """One of the estimates that an order was given, chosen at random, so that each stage of the wait counts."""

    estimate: OrderEstimate
    at: datetime
    count: int = 1


class TrackRecord:
    """One per process."""

    def __init__(self) -> None:
        self._given: OrderedDict[UUID, _Given] = OrderedDict()
        self._measured: defaultdict[MeasureKey, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))

    def give(self, estimates: Iterable[OrderEstimate], at: datetime) -> None:
        """Remember what orders are told now."""
        for estimate in estimates:
            given = self._given.get(estimate.generation_id)
            if given is None:
                self._given[estimate.generation_id] = _Given(estimate, at)
            else:
                given.count += 1
                if random.random() * given.count < 1:
                    given.estimate, given.at = estimate, at
        while len(self._given) > _REMEMBERED:
            self._given.popitem(last=False)

    def delivered(self, order: Order) -> None:
        """An order was delivered: hold what it was told against what was true."""
        measured = measure(order)
        self._add(order, "handover", measured.handover_seconds)
        self._add(order, "run", measured.run_ratio)
        self._add(order, "storing", measured.storing_seconds)
        given = self._given.pop(order.generation_id, None)
        if given is None or order.finished_at is None:
            return
        if given.estimate.start is not None and order.began_at is not None:
            _observe("start", given.estimate.start, order.began_at - given.at)
            if given.estimate.forecast_seconds is not None:
                waited = max(0.0, (order.began_at - given.at).total_seconds())
                self._add(order, "wait", wait_ratio(given.estimate.forecast_seconds, waited))
        _observe("completion", given.estimate.completion, order.finished_at - given.at)

    def take(self) -> Mapping[MeasureKey, Sequence[float]]:
        """What was measured since the last call."""
        taken, self._measured = self._measured, defaultdict(lambda: deque(maxlen=WINDOW))
        return taken

    def requeue(self, values: Mapping[MeasureKey, Sequence[float]]) -> None:
        """What was taken could not be written: it is taken again, before what came since."""
        for key, measured in values.items():
            self._measured[key] = deque([*measured, *self._measured[key]], maxlen=WINDOW)

    def _add(self, order: Order, name: Measure, value: float | None) -> None:
        if value is not None:
            self._measured[MeasureKey(name, order.model_id, order.lane)].append(value)


def _observe(what: str, estimated: Likely, actual: timedelta) -> None:
    seconds = max(0.0, actual.total_seconds())
    ESTIMATE_RATIO.labels(f"{what}_p50").observe(seconds / max(estimated.p50, _SHORTEST_SECONDS))
    ESTIMATE_RATIO.labels(f"{what}_p90").observe(seconds / max(estimated.p90, _SHORTEST_SECONDS))
