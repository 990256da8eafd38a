"""Which states are live and which are final is said once; the auditor, which proves it independently, agrees."""

import re
from typing import get_args

import pytest

from auditor.invariants import INVARIANTS
from generation.domain.statuses import (
    ATTEMPT_STATUS_MEANING,
    FINAL_ORDER_STATUSES,
    LIVE_ATTEMPT_STATUSES,
    ORDER_STATUS_MEANING,
    UNSTARTED_ATTEMPT_STATUSES,
    AttemptStatus,
    OrderStatus,
)

AUDITED = {invariant.code: " ".join(invariant.query.split()) for invariant in INVARIANTS}


def listed(code: str, column: str, operator: str = "IN") -> list[set[str]]:
    """Every list that the auditor's query compares the column with."""
    found = re.findall(rf"(?<![\w.]){re.escape(column)} {operator} \(([^)]*)\)", AUDITED[code])
    return [set(re.findall(r"'(\w+)'", values)) for values in found]


def test_every_status_has_a_meaning() -> None:
    assert set(ORDER_STATUS_MEANING) == set(get_args(OrderStatus))
    assert set(ATTEMPT_STATUS_MEANING) == set(get_args(AttemptStatus))


def test_an_attempt_without_a_start_is_live() -> None:
    assert set(UNSTARTED_ATTEMPT_STATUSES) < set(LIVE_ATTEMPT_STATUSES)


@pytest.mark.parametrize(
    ("code", "column"), [("attempts_end_with_their_generation", "a.status"), ("attempts_are_looked_after", "status")]
)
def test_the_auditor_counts_the_same_attempts_as_live(code: str, column: str) -> None:
    assert listed(code, column) == [set(LIVE_ATTEMPT_STATUSES)]


def test_the_auditor_counts_the_same_orders_as_final() -> None:
    assert listed("attempts_end_with_their_generation", "v.status") == [set(FINAL_ORDER_STATUSES)]
    assert listed("generations_meet_their_deadlines", "status", "NOT IN") == [set(FINAL_ORDER_STATUSES)]
