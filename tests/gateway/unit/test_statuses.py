"""Every status that the API can show has a meaning, and only those do."""

from typing import get_args

from gateway.statuses import (
    GENERATION_STATUS_MEANING,
    PAYMENT_STATUS_MEANING,
    TERMINAL,
    GenerationStatus,
    PaymentStatus,
)


def test_every_status_of_a_generation_and_of_a_payment_has_a_meaning() -> None:
    assert set(GENERATION_STATUS_MEANING) == set(get_args(GenerationStatus))
    assert set(PAYMENT_STATUS_MEANING) == set(get_args(PaymentStatus))


def test_only_a_terminal_status_of_a_generation_has_no_deadline() -> None:
    without = {status for status, meaning in GENERATION_STATUS_MEANING.items() if meaning.deadline == "none"}
    assert without == TERMINAL
