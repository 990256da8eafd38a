"""What Prometheus sees of the gateway, besides its requests, which are measured by route."""

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import Counter, Gauge

from service_runtime.indicators import ACCEPTED_IN_TIME, ACCEPTED_SECONDS
from service_runtime.problems import Problem

OPEN_STREAMS: Final = Gauge("gateway_open_streams", "Event streams that are open")
RUNNING_CANCELS: Final = Counter(
    "gateway_running_cancels_total",
    "Cancels of work that a worker has, by outcome: accepted, or refused because the user's allowance is used up",
    ["outcome"],
)
REFUSED: Final = Counter(
    "gateway_rate_limited_total", "Requests beyond a limit, by its name; `busy` is the overload", ["limit"]
)
VERDICTS_CUT_SHORT: Final = Counter(
    "gateway_verdicts_cut_short_total", "Orders that were answered 202 because too many requests waited for a verdict"
)
SIGNUPS: Final = Counter(
    "gateway_signups_total",
    "New users, by outcome: credited, or not, because the day's sign-ups are used up",
    ["outcome"],
)
for _outcome in ("credited", "too_many"):
    SIGNUPS.labels(_outcome)
for _limit in (
    *("address", "verified-files", "reads", "quotes", "histories", "writes", "busy"),
    *("uploads", "upload-bytes", "running-cancels"),
):
    REFUSED.labels(_limit)
for _outcome in ("accepted", "refused"):
    RUNNING_CANCELS.labels(_outcome)
ACCEPTED_IN_TIME.start()


@contextlib.contextmanager
def measured_acceptance() -> Iterator[None]:
    """Count an order as accepted in time or not. What the user is refused for is neither."""
    began = time.perf_counter()
    try:
        yield
    except Exception as error:
        if not isinstance(error, Problem) or error.status >= 500:
            ACCEPTED_IN_TIME.count(good=False)
        raise
    ACCEPTED_IN_TIME.count(good=time.perf_counter() - began <= ACCEPTED_SECONDS)
