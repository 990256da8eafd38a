"""What the documents say of statuses, generated: ``python -m local_platform.statuses docs/statuses.md docs/api.md``."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import auditor.statuses
import billing.statuses
import gateway.statuses
import generation.domain.statuses
import payments.domain.statuses
import storage.statuses
from contracts.statuses import StatusMeaning, status_table

AGGREGATES: Final[Mapping[str, Mapping[Any, StatusMeaning]]] = {
    "Order (generation)": generation.domain.statuses.ORDER_STATUS_MEANING,
    "Attempt (generation)": generation.domain.statuses.ATTEMPT_STATUS_MEANING,
    "Reservation (billing)": billing.statuses.RESERVATION_STATUS_MEANING,
    "Grant (billing)": billing.statuses.GRANT_STATE_MEANING,
    "Payment (payments)": payments.domain.statuses.PAYMENT_STATUS_MEANING,
    "Refund (payments)": payments.domain.statuses.REFUND_STATE_MEANING,
    "Dispute (payments)": payments.domain.statuses.DISPUTE_STATE_MEANING,
    "Finding (auditor)": auditor.statuses.FINDING_STATE_MEANING,
    "Generation, as its owner sees it (gateway)": gateway.statuses.GENERATION_STATUS_MEANING,
    "Payment, as its owner sees it (gateway)": gateway.statuses.PAYMENT_STATUS_MEANING,
    "Verification (storage)": storage.statuses.VERIFICATION_STATUS_MEANING,
    "Asset (storage)": storage.statuses.ASSET_STATUS_MEANING,
    "Upload (storage)": storage.statuses.UPLOAD_STATUS_MEANING,
    "Deletion (storage)": storage.statuses.DELETION_STATUS_MEANING,
    "Previews (storage)": storage.statuses.PREVIEW_STATUS_MEANING,
}
"""Title of the section: the ``STATUS_MEANING`` that stands beside the statuses in the aggregate's service."""

_HEAD: Final = """# Statuses

What each status means: who sets it, what ends it, by when, and what the user sees.
`make docs` generates this page from the `STATUS_MEANING` beside each list of statuses.
"""

_API_TABLES: Final[Mapping[str, Mapping[Any, StatusMeaning]]] = {
    "<!-- Statuses of a generation: made by `make docs`. -->": gateway.statuses.GENERATION_STATUS_MEANING,
    "<!-- Statuses of a payment: made by `make docs`. -->": gateway.statuses.PAYMENT_STATUS_MEANING,
}


def render() -> str:
    """The page as it is committed."""
    return _HEAD + "".join(f"\n## {title}\n\n{status_table(meanings)}" for title, meanings in AGGREGATES.items())


def render_api(page: str) -> str:
    """The API's page with the tables of the statuses that its users see, each below a comment that marks its place."""
    for marker, meanings in _API_TABLES.items():
        before, found, after = page.partition(f"{marker}\n")
        if not found:
            raise ValueError(f"the page lacks the marker {marker}")
        page = before + found + status_table(meanings) + re.sub(r"\A(\|.*\n)+", "", after)
    return page


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    statuses, api = (Path(argument) for argument in sys.argv[1:])
    _write(statuses, render())
    _write(api, render_api(api.read_text(encoding="utf-8")))
