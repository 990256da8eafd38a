"""What each state of a finding means."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from contracts.statuses import StatusMeaning

FindingState: TypeAlias = Literal["open", "resolved"]
"""Follows from the row: ``resolved_at`` is set or not."""

FINDING_STATE_MEANING: Final[Mapping[FindingState, StatusMeaning]] = {
    "open": StatusMeaning(
        set_by="the check that first sees a row break an invariant; later checks refresh both sides and the time",
        ended_by="a check of that invariant that lists every offender, and this one is not among them",
        deadline="none: an operator acts on it; the runbook says how for each invariant",
        user_sees="nothing; operators see it in `auditor_violations`, `check` and `show`",
    ),
    "resolved": StatusMeaning(
        set_by="the check that does not find it any more",
        ended_by="final: the same violation later opens a new finding",
        deadline="none",
        user_sees="nothing; operators see it in `show`",
    ),
}
