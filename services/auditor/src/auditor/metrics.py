"""Counters and gauges of the auditor."""

from prometheus_client import Counter, Gauge

VIOLATIONS = Gauge("auditor_violations", "Rows that break an invariant, by the last check", ["invariant", "severity"])
UNPROVEN = Gauge("auditor_invariant_unproven", "1 if the last check could not evaluate an invariant", ["invariant"])
LAST_CHECK_AT = Gauge(
    "auditor_last_check_timestamp_seconds",
    "When every invariant was last checked for all that was new or open; its age is what to alert on",
)
PROVEN_THROUGH = Gauge(
    "auditor_proven_through_timestamp_seconds",
    "What was written before this time is proven, or found to be wrong, apart from changes of what is older",
)
PASS_AT = Gauge(
    "auditor_pass_timestamp_seconds",
    "Since when everything of a scope was gone over: the start of its last complete pass; 0 before the first ended",
    ["scope"],
)
LAST_CHECK_SECONDS = Gauge("auditor_last_check_duration_seconds", "How long the queries of the last check took")
LAST_LEDGER_PASS_AT = Gauge(
    "auditor_last_ledger_pass_timestamp_seconds",
    "When the ledger was last compared with its seals to the end; its age is what to alert on",
)

LIBRARY_OBJECTS = Counter(
    "auditor_library_objects_total", "Objects of the library that were held against the books", ["outcome"]
)
LIBRARY_BYTES = Counter("auditor_library_read_bytes_total", "Bytes of the library that were read to compare them")
LIBRARY_OVERDUE_SECONDS = Gauge(
    "auditor_library_overdue_seconds", "How long the part of the library that waits longest for its reading has waited"
)
LIBRARY_OLDEST_READ_SECONDS = Gauge(
    "auditor_library_oldest_read_seconds", "How long ago the part of the library that was read first was read"
)
LIBRARY_LISTING_AGE_SECONDS = Gauge(
    "auditor_library_listing_age_seconds", "How long ago the keys of the library were last listed to the end"
)
