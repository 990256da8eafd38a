"""Gauges of the auditor."""

from prometheus_client import Gauge

VIOLATIONS = Gauge("auditor_violations", "Rows that break an invariant, by the last check", ["invariant", "severity"])
UNPROVEN = Gauge("auditor_invariant_unproven", "1 if the last check could not evaluate an invariant", ["invariant"])
LAST_CHECK_AT = Gauge(
    "auditor_last_check_timestamp_seconds",
    "When every invariant was last checked; its age is what to alert on",
)
LAST_CHECK_SECONDS = Gauge("auditor_last_check_duration_seconds", "How long the queries of the last check took")
LAST_LEDGER_PASS_AT = Gauge(
    "auditor_last_ledger_pass_timestamp_seconds",
    "When the ledger was last compared with its seals to the end; its age is what to alert on",
)
