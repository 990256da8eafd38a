"""What the campaign calls right and wrong about the credits of an order."""

from typing import Any

import pytest

from tests.faults.generations import charge_errors

DELIVERED: dict[str, Any] = {
    "status": "completed",
    "status_there": "completed",
    "late": False,
    "price_credits": 30,
    "shown_credits": 30,
    "reservations": 1,
    "reservation": "captured",
    "captured_credits": 30,
    "refusal": None,
}
CANCELLED = DELIVERED | {
    "status": "cancelled",
    "status_there": "cancelled",
    "shown_credits": None,
    "reservation": "released",
    "captured_credits": 0,
}
WITHDRAWN = CANCELLED | {
    "status_there": None,
    "reservations": 0,
    "reservation": None,
    "captured_credits": None,
    "refusal": "cancelled",
}
"""Its cancel overtook billing."""


@pytest.mark.parametrize(
    "order",
    [
        DELIVERED,
        DELIVERED | {"late": True, "shown_credits": 0, "reservation": "released", "captured_credits": 0},
        CANCELLED,
        WITHDRAWN,
        WITHDRAWN | {"shown_credits": 0},
    ],
    ids=["delivered", "late", "cancelled", "withdrawn", "withdrawn and shown as free"],
)
def test_an_order_with_the_right_charge_is_right(order: dict[str, Any]) -> None:
    assert charge_errors(order) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"refusal": None},
        {"refusal": "expired"},
        {"refusal": "insufficient_credits"},
        {"status": "refused"},
        {"status": "failed"},
        {"status": "completed"},
        {"status_there": "cancelled"},
        {"shown_credits": 30},
        {"reservations": 1, "reservation": "released", "captured_credits": 0},
    ],
    ids=str,
)
def test_only_a_cancel_that_overtook_billing_excuses_a_missing_reservation(changes: dict[str, Any]) -> None:
    assert charge_errors(WITHDRAWN | changes) != []


@pytest.mark.parametrize(
    "changes",
    [
        {"captured_credits": 29},
        {"shown_credits": None},
        {"late": True},
        {"reservation": "held"},
        {"reservations": 2},
        {"refusal": "cancelled"},
    ],
    ids=str,
)
def test_a_wrong_charge_of_a_delivered_order_is_an_error(changes: dict[str, Any]) -> None:
    assert charge_errors(DELIVERED | changes) != []
