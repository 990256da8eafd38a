"""The page about every status of every aggregate, generated: ``python -m local_platform.statuses docs/statuses.md``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import auditor.statuses
import billing.statuses
import storage.statuses
from contracts.statuses import StatusMeaning, status_table

AGGREGATES: Final[Mapping[str, Mapping[Any, StatusMeaning]]] = {
    "Reservation (billing)": billing.statuses.RESERVATION_STATUS_MEANING,
    "Grant (billing)": billing.statuses.GRANT_STATE_MEANING,
    "Finding (auditor)": auditor.statuses.FINDING_STATE_MEANING,
    "Verification (storage)": storage.statuses.VERIFICATION_STATUS_MEANING,
    "Asset (storage)": storage.statuses.ASSET_STATUS_MEANING,
    "Upload (storage)": storage.statuses.UPLOAD_STATUS_MEANING,
}
"""Title of the section: the ``STATUS_MEANING`` that stands beside the statuses in the aggregate's service."""

_HEAD: Final = """# Statuses

What each status means: who sets it, what ends it, by when, and what the user sees.
`make docs` generates this page from the `STATUS_MEANING` beside each list of statuses.
"""


def render() -> str:
    """The page as it is committed."""
    return _HEAD + "".join(f"\n## {title}\n\n{status_table(meanings)}" for title, meanings in AGGREGATES.items())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
