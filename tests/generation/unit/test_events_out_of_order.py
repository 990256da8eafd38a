"""What comes late, twice, or in an unexpected state changes nothing that is decided."""

from dataclasses import replace
from uuid import uuid4

import msgspec
import pytest

from contracts.generation import FAILURE_SENTENCES, GenerationCompleted, GenerationFailed
from contracts.storage import REJECTION_SENTENCES, InputsRejected, InputsVerified
from generation.domain.lifecycle import backoff_over, cancel, deadline_passed, provider_cancelled
from generation.domain.order import Order
from generation.domain.provider_events import (
    refused,
    rejected,
    reported,
    started,
    submission_timed_out,
    submitted,
    unanswered,
)
from generation.domain.provider_reports import JobFailed, JobQueued, OutputReturned
from generation.domain.statuses import AttemptStatus, OrderStatus
from generation.domain.storage_events import asset_stored, inputs_rejected, inputs_verified
from tests.generation.domain_orders import (
    LATER,
    NOW,
    POLICY,
    failed,
    lost_job,
    names,
    only,
    order,
    stored,
    uploaded,
)


def unchanged(one: Order, status: OrderStatus) -> bool:
    return (one.status, one.version, one.events) == (status, 4, [])


class TestSubmission:
    @pytest.mark.parametrize("status", ["succeeded", "running"])
    def test_a_late_job_id_of_an_attempt_that_needs_no_stop_is_only_noted(self, status: AttemptStatus) -> None:
        one = order("running", status)
        attempt = one.attempts[0]
        attempt.provider_job_id = None
        submitted(one, attempt, 1, "job-1", POLICY, NOW)
        assert attempt == replace(attempt, provider_job_id="job-1", cancel_due_at=None)

    def test_the_submission_of_an_order_that_has_moved_on_is_not_announced(self) -> None:
        one = order("storing", "succeeded", "prepared")
        submitted(one, one.attempts[1], 1, "job-2", POLICY, NOW)
        assert (one.attempts[1].status, one.events) == ("submitted", [])

    def test_a_refusal_after_the_order_has_moved_on_ends_only_the_attempt(self) -> None:
        one = order("storing", "succeeded", "prepared")
        refused(one, one.attempts[1], 1, "429", NOW)
        assert one.attempts[1].status == "refused"
        assert unchanged(one, "storing")

    def test_a_rejection_by_a_dispatcher_without_its_lease_changes_nothing(self) -> None:
        one = order("dispatching", "unknown")
        rejected(one, one.attempts[0], 1, "400", POLICY, NOW)
        assert one.attempts[0].status == "unknown"
        assert unchanged(one, "dispatching")

    def test_a_rejection_during_a_cancel_takes_the_cancel_into_effect(self) -> None:
        one = order("cancelling", "prepared")
        rejected(one, one.attempts[0], 1, "400", POLICY, NOW)
        assert one.status == "cancelled"

    def test_a_rejection_after_the_order_has_moved_on_ends_only_the_attempt(self) -> None:
        one = order("storing", "succeeded", "prepared")
        rejected(one, one.attempts[1], 1, "400", POLICY, NOW)
        assert unchanged(one, "storing")

    def test_a_missing_answer_is_recorded_once(self) -> None:
        one = order("dispatching", "unknown")
        unanswered(one, one.attempts[0], 1, POLICY, NOW)
        assert (one.attempts[0].status, one.attempts[0].fence_token) == ("unknown", 1)

    def test_a_missing_answer_during_a_cancel_takes_the_cancel_into_effect(self) -> None:
        one = order("cancelling", "prepared")
        unanswered(one, one.attempts[0], 1, POLICY, NOW)
        assert (one.status, one.attempts[0].status) == ("cancelled", "cancelled")

    def test_a_submission_that_is_over_does_not_time_out(self) -> None:
        one = order("queued", "lost")
        submission_timed_out(one, one.attempts[0], POLICY, NOW)
        assert unchanged(one, "queued")


class TestReports:
    def test_a_queued_job_changes_nothing(self) -> None:
        one = order("dispatching", "submitted")
        reported(one, one.attempts[0], JobQueued("job-1"), POLICY, NOW, NOW)
        assert unchanged(one, "dispatching")

    def test_a_returned_file_must_be_put_into_the_bucket_first(self) -> None:
        one = order("running", "running")
        returned = OutputReturned(job_id="job-1", filename="a.png", is_url=False, data="")
        with pytest.raises(AssertionError, match="bucket first"):
            reported(one, one.attempts[0], returned, POLICY, NOW, NOW)

    def test_a_start_after_the_order_has_moved_on_is_not_announced(self) -> None:
        one = order("storing", "succeeded", "submitted")
        started(one, one.attempts[1], NOW)
        assert one.attempts[1].status == "running"
        assert unchanged(one, "storing")

    def test_a_second_file_during_a_verification_is_only_noted(self) -> None:
        one = order("storing", "succeeded", "running", verifying_number=1)
        reported(one, one.attempts[1], uploaded("job-2"), POLICY, NOW, NOW)
        assert one.attempts[1].status == "succeeded"
        assert unchanged(one, "storing")

    def test_a_failure_during_a_cancel_takes_the_cancel_into_effect(self) -> None:
        one = order("cancelling", "running")
        reported(one, one.attempts[0], failed(), POLICY, NOW, NOW)
        assert (one.status, one.attempts[0].status) == ("cancelled", "failed")

    def test_a_failure_of_an_earlier_attempt_does_not_touch_the_latest(self) -> None:
        one = order("running", "running", "running")
        reported(one, one.attempts[0], failed(), POLICY, NOW, NOW)
        assert (one.attempts[0].status, one.attempts[1].status) == ("failed", "running")
        assert unchanged(one, "running")

    def test_a_lost_job_during_a_cancel_takes_the_cancel_into_effect(self) -> None:
        one = order("cancelling", "running")
        reported(one, one.attempts[0], lost_job(), POLICY, NOW, NOW)
        assert (one.status, one.attempts[0].status) == ("cancelled", "lost")

    def test_a_lost_earlier_attempt_does_not_touch_the_latest(self) -> None:
        one = order("running", "running", "running")
        reported(one, one.attempts[0], lost_job(), POLICY, NOW, NOW)
        assert unchanged(one, "running")


class TestTimers:
    def test_a_provider_that_confirms_a_cancel_late_changes_nothing(self) -> None:
        one = order("cancelled", "cancelled", finished_at=NOW)
        attempt = one.attempts[0]
        attempt.cancel_due_at = NOW
        provider_cancelled(one, attempt, LATER)
        assert attempt == replace(attempt, cancel_due_at=None)
        assert unchanged(one, "cancelled")

    def test_a_backoff_ends_without_effect_once_the_order_has_left_the_queue(self) -> None:
        one = order("storing", "succeeded")
        backoff_over(one)
        assert not one.ready

    def test_an_order_that_has_ended_has_no_deadline(self) -> None:
        one = order("failed", "lost", finished_at=NOW)
        deadline_passed(one, POLICY, LATER)
        assert unchanged(one, "failed")

    def test_a_cancel_before_the_job_id_is_known_stops_the_job_later(self) -> None:
        one = order("dispatching", "prepared")
        cancel(one, POLICY, NOW)
        assert (one.status, one.attempts[0].cancel_due_at) == ("cancelling", None)


class TestStorage:
    def test_a_file_stored_during_a_cancel_is_delivered_free(self) -> None:
        one = order("cancelling", "running")
        asset_stored(one, stored(one), LATER)
        event = one.events[-1]
        assert isinstance(event, GenerationCompleted)
        assert (names(one), event.late, event.capture_credits) == (
            ["GenerationCancelled", "GenerationCompleted"],
            True,
            0,
        )

    def test_a_file_that_is_found_after_the_retry_began_stops_the_retry(self) -> None:
        """Storage answered only when its time was over."""
        one = order("running", "lost", "running")
        asset_stored(one, stored(one, one.attempts[0].attempt_id), LATER)
        assert one.status == "completed"
        found, stopped = one.attempts
        assert (found.status, stopped.status, stopped.cancel_due_at) == ("succeeded", "cancelled", LATER)

    def test_the_end_of_an_attempt_is_its_report_and_not_the_end_of_its_verification(self) -> None:
        one = order("storing", "succeeded", verifying_number=1)
        one.attempts[0].ended_at = NOW
        asset_stored(one, stored(one), LATER)
        assert one.attempts[0].ended_at == NOW

    def test_a_file_of_an_attempt_that_is_not_known_is_delivered(self) -> None:
        """The database was restored to a moment before the attempt."""
        one = order("queued", "lost")
        file = msgspec.structs.replace(stored(one), attempt_id=uuid4(), attempt_number=2)
        asset_stored(one, file, LATER)
        assert (one.status, one.asset_id) == ("completed", file.asset_id)

    def test_verified_inputs_make_the_order_ready_once(self) -> None:
        one = order("queued", inputs_ready=False)
        verified = InputsVerified(generation_id=one.generation_id, user_id=one.user_id, object_keys={"image": "key"})
        inputs_verified(one, verified)
        assert (one.ready, one.input_object_keys) == (True, {"image": "key"})
        one.ready = False
        inputs_verified(one, verified)
        assert not one.ready

    def test_user_reads_a_fixed_sentence_whatever_the_worker_said(self) -> None:
        one = order("running", "running")
        words = "Traceback: https://10.0.0.1/key"
        report = JobFailed(job_id="job-1", code="invalid_input", detail=words, user_fault=True)
        reported(one, one.attempts[0], report, POLICY, NOW, NOW)
        event = only(one)
        assert isinstance(event, GenerationFailed)
        assert event.detail == FAILURE_SENTENCES["invalid_input"]
        assert (one.failure_detail, one.attempts[0].failure_detail) == (words, words)

    def test_rejected_inputs_fail_the_order_once(self) -> None:
        one = order("queued", inputs_ready=False)
        rejection = InputsRejected(
            generation_id=one.generation_id, user_id=one.user_id, parameter="image", code="undecodable", detail="empty"
        )
        inputs_rejected(one, rejection, NOW)
        event = only(one)
        assert isinstance(event, GenerationFailed)
        assert (event.code, event.detail) == ("invalid_input", f"image: {REJECTION_SENTENCES['undecodable']}")
        assert one.failure_detail == "image: undecodable: empty"
        inputs_rejected(one, rejection, LATER)
        assert names(one) == ["GenerationFailed"]


def test_an_attempt_of_another_order_is_an_error() -> None:
    one = order("running", "running")
    assert one.get_attempt(one.attempts[0].attempt_id) is one.attempts[0]
    with pytest.raises(AssertionError, match="is none of order"):
        one.get_attempt(uuid4())


def test_an_order_takes_up_a_place_for_each_live_attempt() -> None:
    occupancy = order("queued", "lost", "running", ready=True).occupancy
    assert (occupancy.ready, occupancy.active) == (1, 1)
