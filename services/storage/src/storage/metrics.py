"""The counters and gauges of storage. ``request`` is the name of the message that requested the verification."""

from typing import Final, Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

from contracts.generation import OutputReady, OutputSought
from contracts.storage import RejectionCode, VerifyInputs

Operation = Literal["get", "put", "delete"]
PreviewOutcome = Literal["stored", "given_up", "deleted"]

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
deletions_total: Final = Counter("storage_deletions_total", "Generations whose files were deleted for their users.")
oldest_deletion_seconds: Final = Gauge(
    "storage_oldest_deletion_seconds", "Age of the oldest deletion that is not carried out."
)
previews_total: Final = Counter("storage_previews_total", "Outputs whose previews ended, by outcome.", ["outcome"])
preview_failures_total: Final = Counter(
    "storage_preview_failures_total", "Tries to make previews that failed, other than because something was away."
)
preview_seconds: Final = Histogram(
    "storage_preview_seconds",
    "From the claim of an output to its previews.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
oldest_preview_seconds: Final = Gauge(
    "storage_oldest_preview_seconds", "How long the output has been stored that has waited longest for its previews."
)
object_seconds: Final = Histogram(
    "storage_object_seconds",
    "Operations on objects: fetches of whole files, writes, and deletions of all files of a generation.",
    ["operation", "outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
markings_total: Final = Counter("storage_markings_total", "Outputs marked as made by AI, by outcome.", ["outcome"])
certificate_expires_at: Final = Gauge(
    "storage_marking_certificate_expires_at_seconds",
    "When the certificate of the marks expires, in seconds since 1970; 0 where outputs are not marked.",
)

# A rate over a series that appears with its first event misses that event: all of them start at 0.
for _message in (OutputReady, OutputSought, VerifyInputs):
    _request = _message.subject.split(".")[2]
    verifications_total.labels(_request, "ok", "")
    for _code in get_args(RejectionCode):
        verifications_total.labels(_request, "refused", _code)
for _outcome in ("marked", "unmarkable", "signer_unavailable"):
    markings_total.labels(_outcome)
for _preview_outcome in get_args(PreviewOutcome):
    previews_total.labels(_preview_outcome)
for _operation in get_args(Operation):
    for _outcome in ("ok", "unavailable", "rejected"):
        object_seconds.labels(_operation, _outcome)
