"""An order may say by when a worker has to begin: what counts as begun, and how an order ends that has not."""

from datetime import timedelta

from contracts.generation import GenerationFailed, OutputSought
from generation.domain.lifecycle import cancel, deadline_passed
from generation.domain.order import Order
from generation.domain.provider_events import refused, reported, started, submitted
from generation.domain.storage_events import asset_stored, output_missing
from tests.generation.domain_orders import (
    LATER,
    NOW,
    POLICY,
    failed,
    missing,
    names,
    only,
    order,
    stored,
    uploaded,
)

START = NOW + timedelta(minutes=1)
AFTER = START + timedelta(milliseconds=1)


def submitted_order() -> Order:
    return order("dispatching", "submitted", start_before_at=START, deadline_at=START)


def test_an_order_that_was_never_served_ends_when_its_time_to_start_is_over() -> None:
    one = order("queued", start_before_at=START, deadline_at=START)
    deadline_passed(one, POLICY, AFTER)
    event = only(one)
    assert isinstance(event, GenerationFailed)
    assert (one.status, event.code) == ("failed", "not_started_in_time")


def test_an_order_at_the_provider_is_stopped_and_looked_up_first() -> None:
    one = submitted_order()
    deadline_passed(one, POLICY, AFTER)
    assert one.attempts[0].cancel_due_at == AFTER
    assert isinstance(only(one), OutputSought)
    one.events.clear()
    output_missing(one, missing(one), POLICY, LATER)
    event = only(one)
    assert isinstance(event, GenerationFailed)
    assert event.code == "not_started_in_time"


def test_a_file_that_the_lookup_finds_proves_that_the_work_began() -> None:
    one = submitted_order()
    deadline_passed(one, POLICY, AFTER)
    asset_stored(one, stored(one), LATER)
    assert (one.status, one.late) == ("completed", False)


def test_a_worker_that_begins_in_time_leaves_only_the_deadline_of_the_order() -> None:
    one = submitted_order()
    started(one, one.attempts[0], START)
    assert (one.status, one.deadline_at) == ("running", one.expires_at)


def test_a_worker_that_begins_too_late_does_not_save_the_order() -> None:
    one = submitted_order()
    started(one, one.attempts[0], AFTER)
    assert one.deadline_at == START
    deadline_passed(one, POLICY, AFTER)
    assert one.attempts[0].status == "lost"
    assert names(one) == ["GenerationStarted", "OutputSought"]


def test_a_worker_that_begins_after_the_end_changes_nothing() -> None:
    one = submitted_order()
    deadline_passed(one, POLICY, AFTER)
    one.events.clear()
    started(one, one.attempts[0], AFTER)
    assert (one.attempts[0].started_at, one.events) == (None, [])


def test_a_retry_of_work_that_had_begun_has_the_time_of_the_order() -> None:
    one = submitted_order()
    started(one, one.attempts[0], NOW)
    reported(one, one.attempts[0], failed(), POLICY, NOW, None)
    assert (one.status, one.deadline_at) == ("queued", one.expires_at)


def test_an_order_that_the_provider_refused_still_has_to_start_in_time() -> None:
    one = order("dispatching", "prepared", start_before_at=START, deadline_at=START)
    refused(one, one.attempts[0], 1, "429", NOW)
    assert (one.status, one.deadline_at) == ("queued", START)


def test_the_provider_is_asked_whether_a_worker_has_begun_just_before_the_end() -> None:
    soon = order("dispatching", "prepared", start_before_at=NOW + timedelta(seconds=10))
    submitted(soon, soon.attempts[0], 1, "job-1", POLICY, NOW)
    assert soon.attempts[0].check_at == NOW + timedelta(seconds=7)
    later = order("dispatching", "prepared", start_before_at=NOW + timedelta(minutes=10))
    submitted(later, later.attempts[0], 1, "job-1", POLICY, NOW)
    assert later.attempts[0].check_at == NOW + POLICY.first_check


def test_the_deadline_of_the_order_comes_first_if_it_is_earlier() -> None:
    one = order("queued", start_before_at=START, expires_at=NOW, deadline_at=NOW)
    deadline_passed(one, POLICY, NOW)
    assert one.failure_code == "deadline_exceeded"


def test_work_that_began_in_time_is_not_ended_by_a_deadline_that_nobody_moved() -> None:
    """A replica of an older release let it begin."""
    one = submitted_order()
    started(one, one.attempts[0], NOW)
    one.events.clear()
    one.deadline_at = START
    deadline_passed(one, POLICY, AFTER)
    assert (one.status, one.deadline_at, one.events) == ("running", one.expires_at, [])


def test_a_file_that_comes_after_the_end_is_free() -> None:
    one = submitted_order()
    deadline_passed(one, POLICY, AFTER)
    output_missing(one, missing(one), POLICY, AFTER)
    reported(one, one.attempts[0], uploaded(), POLICY, LATER, None)
    asset_stored(one, stored(one), LATER)
    assert (one.status, one.late) == ("completed", True)


def test_a_cancel_before_the_end_wins() -> None:
    one = order("queued", start_before_at=START, deadline_at=START)
    cancel(one, POLICY, NOW)
    deadline_passed(one, POLICY, AFTER)
    assert names(one) == ["GenerationCancelled"]
