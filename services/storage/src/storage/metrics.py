"""The counters and gauges of storage. ``request`` is the name of the message that requested the verification."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

verifications_total: Final = Counter(
    "storage_verifications_total", "Verifications with a result.", ["request", "outcome", "code"]
)
postponed_total: Final = Counter(
    "storage_postponed_total", "Verifications postponed because something was unavailable."
)
failures_total: Final = Counter("storage_failures_total", "Verifications that failed unexpectedly. Each is a bug.")
verification_seconds: Final = Histogram("storage_verification_seconds", "From the claim to the result.", ["request"])
open_verifications: Final = Gauge("storage_open_verifications", "Verifications without a result.")
oldest_open_seconds: Final = Gauge(
    "storage_oldest_verification_seconds", "Age of the oldest verification without a result."
)
