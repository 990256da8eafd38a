"""What an operator finds about an alarm."""

import re
from pathlib import Path

from auditor.domain import LEDGER_SEALS_CODE
from auditor.invariants import INVARIANTS
from auditor.recorded_files import SEVERITIES

RUNBOOK = Path(__file__).parents[3] / "docs" / "runbook.md"


def test_the_runbook_explains_every_invariant_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| [^|]+ \|$", RUNBOOK.read_text(), re.MULTILINE)
    assert rows == [*(invariant.code for invariant in INVARIANTS), *SEVERITIES, LEDGER_SEALS_CODE]
