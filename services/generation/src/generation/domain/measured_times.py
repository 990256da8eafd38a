"""What was measured lately of each model and lane, and what it says about the next order: quantiles of a window.

A window holds the newest values, so that it is bounded, follows a change of model or endpoint, and has quantiles that
single outliers do not move. Until enough was measured, the other lanes of the model, and then a prior, stand in for it.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Final, Literal

from contracts.values import Lane

Measure = Literal[
    "handover",  # seconds from the claim until a worker begins: a cold start included
    "run",  # from the begin of the work to its file, as a multiple of what the catalogue plans
    "storing",  # seconds from the file to its delivery
    "wait",  # from a forecast to the begin of the work, as a multiple of the forecast (`estimates.wait_ratio`)
]

WINDOW: Final = 64
"""Values that are kept: enough for a p90 that is right within about 4 percent, few enough to follow a change."""
ENOUGH: Final = 8
"""From so many values on, a window speaks for itself."""
PRIORS: Final[Mapping[Measure, tuple[float, ...]]] = {
    "handover": (1.0, 2.0, 5.0, 15.0, 60.0),
    "run": (0.6, 0.85, 1.0, 1.3, 2.0),
    "storing": (0.5, 1.0, 2.0, 4.0, 8.0),
    "wait": (0.6, 0.85, 1.0, 1.3, 1.8),
}
"""What is assumed where nothing was measured: run times as the catalogue plans them, and a worker that may be cold."""
_LONGER: Final[Mapping[float, float]] = {0.5: 1.25, 0.9: 2.0}
"""What has lasted longer than all that was measured will last so many times as long as it has until now."""


@dataclass(frozen=True, slots=True)
class MeasureKey:
    """What is measured, of which model and lane."""

    measure: Measure
    model_id: str
    lane: Lane


@dataclass(frozen=True, slots=True)
class Distribution:
    """Sorted values, at least one."""

    values: Sequence[float]

    def quantile(self, share: float) -> float:
        """The value that a further one exceeds with the probability 1 - ``share``, between the outermost values."""
        # Of n values the k-th is not exceeded with the probability k / (n + 1).
        place = share * (len(self.values) + 1) - 1
        lower = min(max(0, floor(place)), len(self.values) - 1)
        upper = min(lower + 1, len(self.values) - 1)
        weight = min(max(0.0, place - lower), 1.0)
        return self.values[lower] * (1 - weight) + self.values[upper] * weight

    def quantile_beyond(self, share: float, elapsed: float) -> float:
        """The same for what has lasted for ``elapsed`` already, always more than that. ``share`` is 0.5 or 0.9."""
        longer = self.values[bisect_right(self.values, elapsed) :]
        beyond = elapsed * _LONGER[share]
        if not longer:
            return beyond
        # One value is little to go by: with few of them, their own end is not the end of what can be.
        found = Distribution(longer).quantile(share)
        return found if len(longer) >= ENOUGH // 2 else max(found, min(beyond, longer[-1] * _LONGER[share]))

    @property
    def mean(self) -> float:
        """The mean without the twentieth at each end: a mean of the middle alone would be too short for run times."""
        cut = len(self.values) // 20
        middle = self.values[cut : len(self.values) - cut]
        return sum(middle) / len(middle)

    def times(self, factor: float) -> "Distribution":
        """Each value multiplied."""
        return Distribution([value * factor for value in self.values])


class MeasuredTimes:
    """All windows of one moment."""

    def __init__(self, windows: Mapping[MeasureKey, Sequence[float]]) -> None:
        self._windows = windows
        self._distributions: dict[MeasureKey, Distribution] = {}

    def distribution(self, measure: Measure, model_id: str, lane: Lane) -> Distribution:
        """What is known of that measure: of the lane, or else of the model, or else with what is assumed."""
        key = MeasureKey(measure, model_id, lane)
        if key not in self._distributions:
            self._distributions[key] = Distribution(sorted(self._values(key)))
        return self._distributions[key]

    def is_measured(self, measure: Measure, model_id: str) -> bool:
        """Whether enough is known of the model, in whichever lane, to do without an assumption."""
        return len(self._of_model(measure, model_id)) >= ENOUGH

    def _values(self, key: MeasureKey) -> Sequence[float]:
        own = self._windows.get(key, ())
        if len(own) >= ENOUGH:
            return own
        of_model = self._of_model(key.measure, key.model_id)
        return of_model if len(of_model) >= ENOUGH else [*of_model, *PRIORS[key.measure]]

    def _of_model(self, measure: Measure, model_id: str) -> list[float]:
        return [
            value
            for key, window in self._windows.items()
            if (key.measure, key.model_id) == (measure, model_id)
            for value in window
        ]
