"""Meanings of statuses, as the docs show them."""

from contracts.statuses import StatusMeaning, status_table


def test_a_table_has_one_line_for_each_status_in_order() -> None:
    queued = StatusMeaning(set_by="the queue", ended_by="a claim", deadline="one hour", user_sees="queued")
    failed = StatusMeaning(set_by="a timer", ended_by="nothing: it is final", deadline="none", user_sees="failed")
    assert status_table({"queued": queued, "failed": failed}).splitlines() == [
        "| status | set by | ended by | deadline | the user sees |",
        "| --- | --- | --- | --- | --- |",
        "| `queued` | the queue | a claim | one hour | queued |",
        "| `failed` | a timer | nothing: it is final | none | failed |",
    ]
