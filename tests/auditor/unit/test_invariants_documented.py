"""What an operator finds about an alarm."""

import re
from pathlib import Path

from auditor import ledger_seals
from auditor.invariants import INVARIANTS

RUNBOOK = Path(__file__).parents[3] / "docs" / "runbook.md"


def test_the_runbook_says_of_every_invariant_what_it_means_and_what_to_do_first_and_of_no_other() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| [^|]+ \|$", RUNBOOK.read_text(), re.MULTILINE)
    assert rows == [*(invariant.code for invariant in INVARIANTS), ledger_seals.CODE]
