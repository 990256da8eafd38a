"""The states of an order: what moves it, what does not, and what is announced."""

from datetime import timedelta

import msgspec
import pytest

from contracts.generation import (
    AttemptFailed,
    GenerationCompleted,
    GenerationDispatched,
    GenerationFailed,
    OutputReady,
    OutputSought,
)
from generation.domain.lifecycle import backoff_over, cancel, deadline_passed, provider_cancelled
from generation.domain.policy import Policy
from generation.domain.provider_events import (
    dispatcher_died,
    refused,
    reported,
    started,
    submission_timed_out,
    submitted,
    unanswered,
)
from generation.domain.provider_events import (
    rejected as submission_rejected,
)
from generation.domain.provider_reports import JobRunning
from generation.domain.statuses import AttemptStatus, OrderStatus
from generation.domain.storage_events import asset_rejected, asset_stored, output_missing
from tests.generation.domain_orders import (
    LATER,
    NOW,
    POLICY,
    attempt,
    failed,
    lost_job,
    missing,
    names,
    only,
    order,
    rejected,
    stored,
    uploaded,
)

NO_RETRY = Policy(max_attempts=1)


class TestSubmission:
    def test_a_job_id_makes_the_attempt_submitted_and_is_announced(self) -> None:
        one = order("dispatching", "prepared")
        submitted(one, one.attempts[0], 1, "job-1", POLICY, NOW)
        assert one.attempts[0].status == "submitted"
        event = only(one)
        assert isinstance(event, GenerationDispatched)
        assert (event.provider_job_id, event.version) == ("job-1", 5)

    def test_a_dispatcher_that_lost_its_lease_adds_the_job_id_and_undoes_nothing(self) -> None:
        one = order("dispatching", "prepared")
        unanswered(one, one.attempts[0], 1, POLICY, NOW)
        refused(one, one.attempts[0], 1, "too late to say so", LATER)
        assert one.attempts[0].status == "unknown"
        submitted(one, one.attempts[0], 1, "job-1", POLICY, LATER)
        assert (one.attempts[0].status, one.attempts[0].provider_job_id) == ("submitted", "job-1")

    @pytest.mark.parametrize("status", ["lost", "failed", "cancelled"])
    def test_a_job_id_for_an_attempt_that_is_over_has_the_job_stopped(self, status: AttemptStatus) -> None:
        one = order("queued", status)
        submitted(one, one.attempts[0], 1, "job-1", POLICY, NOW)
        assert one.attempts[0].status == status
        assert one.attempts[0].cancel_due_at == NOW
        assert one.events == []

    def test_a_refusal_requeues_the_order_without_using_up_a_try(self) -> None:
        one = order("dispatching", "prepared")
        refused(one, one.attempts[0], 1, "429", NOW)
        assert (one.status, one.ready, one.failures, one.events) == ("queued", True, 0, [])

    def test_a_request_that_the_provider_will_never_take_uses_up_a_try(self) -> None:
        one = order("dispatching", "prepared")
        submission_rejected(one, one.attempts[0], 1, "400", POLICY, NOW)
        assert (one.status, one.ready, one.failures, names(one)) == ("queued", False, 1, ["AttemptFailed"])

    def test_an_unanswered_submission_waits_for_a_sign_before_another_attempt(self) -> None:
        one = order("dispatching", "prepared")
        unanswered(one, one.attempts[0], 1, POLICY, NOW)
        assert one.status == "dispatching"
        assert one.attempts[0].check_at == NOW + POLICY.ambiguous_wait
        submission_timed_out(one, one.attempts[0], POLICY, LATER)
        assert names(one) == ["OutputSought"]
        output_missing(one, missing(one), POLICY, LATER)
        assert (one.status, names(one)) == ("queued", ["OutputSought", "AttemptFailed"])

    def test_the_wait_for_a_sign_counts_from_the_submission(self) -> None:
        one = order("dispatching", "prepared")
        one.attempts[0].sending_at = NOW - timedelta(seconds=20)
        dispatcher_died(one, one.attempts[0], 1, POLICY, NOW)
        assert one.attempts[0].status == "unknown"
        assert one.attempts[0].check_at == NOW - timedelta(seconds=20) + POLICY.ambiguous_wait

    def test_an_attempt_that_was_never_sent_goes_again_at_once(self) -> None:
        one = order("dispatching", "prepared")
        dispatcher_died(one, one.attempts[0], 1, POLICY, NOW)
        assert (one.status, one.ready, one.failures) == ("queued", True, 0)
        assert one.attempts[0].status == "refused"

    def test_an_unanswered_submission_shows_itself_by_its_callback(self) -> None:
        one = order("dispatching", "unknown")
        reported(one, one.attempts[0], uploaded("job-9"), POLICY, NOW, NOW)
        assert one.status == "storing"
        assert one.attempts[0].provider_job_id == "job-9"
        assert names(one) == ["GenerationDispatched", "OutputReady"]

    def test_a_callback_may_overtake_the_record_of_the_submission(self) -> None:
        one = order("dispatching", "prepared")
        reported(one, one.attempts[0], uploaded(), POLICY, NOW, NOW)
        submitted(one, one.attempts[0], 1, "job-1", POLICY, NOW)
        assert (one.status, one.attempts[0].status) == ("storing", "succeeded")
        assert names(one) == ["GenerationDispatched", "OutputReady"]


class TestRunning:
    def test_the_first_sign_of_a_worker_is_announced_once(self) -> None:
        one = order("dispatching", "submitted")
        started(one, one.attempts[0], NOW)
        started(one, one.attempts[0], LATER)
        reported(one, one.attempts[0], JobRunning("job-1"), POLICY, LATER, None)
        assert (one.status, names(one)) == ("running", ["GenerationStarted"])

    def test_a_start_before_the_submission_is_recorded_is_announced_after_it(self) -> None:
        one = order("dispatching", "prepared")
        started(one, one.attempts[0], NOW)
        assert (one.attempts[0].status, one.events) == ("prepared", [])
        submitted(one, one.attempts[0], 1, "job-1", POLICY, LATER)
        assert (one.status, names(one)) == ("running", ["GenerationDispatched", "GenerationStarted"])

    def test_a_start_is_the_sign_that_an_unanswered_submission_waits_for(self) -> None:
        one = order("dispatching", "prepared")
        started(one, one.attempts[0], NOW)
        unanswered(one, one.attempts[0], 1, POLICY, LATER)
        assert (one.status, one.attempts[0].status) == ("running", "running")

    def test_a_completed_job_is_verified_under_our_own_key(self) -> None:
        one = order("running", "running")
        reported(one, one.attempts[0], uploaded(), POLICY, NOW, NOW)
        event = only(one)
        assert isinstance(event, OutputReady)
        assert event.expected_extension == "mp4"
        assert event.claim.object_key == f"{one.generation_id}/1/output.mp4"
        assert (event.claim.size_bytes, event.claim.sha256, event.callback_received_at) == (1000, "ab", NOW)
        assert one.status == "storing"

    def test_a_repeated_callback_changes_nothing(self) -> None:
        one = order("running", "running")
        for _ in range(10):
            reported(one, one.attempts[0], uploaded(), POLICY, NOW, NOW)
        assert (one.version, names(one)) == (5, ["OutputReady"])

    def test_a_late_success_of_an_earlier_attempt_ends_the_retry(self) -> None:
        one = order("dispatching", "lost", "submitted")
        reported(one, one.attempts[0], uploaded(), POLICY, NOW, NOW)
        assert (one.status, one.verifying_number) == ("storing", 1)
        assert one.attempts[1].status == "cancelled"
        assert one.attempts[1].cancel_due_at == NOW

    def test_a_late_success_takes_a_waiting_retry_out_of_the_queue(self) -> None:
        one = order("queued", "failed", ready=True)
        reported(one, one.attempts[0], uploaded(), POLICY, NOW, NOW)
        assert (one.status, one.ready) == ("storing", False)


class TestFailure:
    def test_an_infrastructure_error_is_retried_after_a_backoff(self) -> None:
        one = order("running", "running")
        reported(one, one.attempts[0], failed(), POLICY, NOW, NOW)
        event = only(one)
        assert isinstance(event, AttemptFailed)
        assert event.retry_at == NOW + POLICY.retry_backoff.delay(1, one.generation_id)
        assert (one.status, one.ready) == ("queued", False)
        backoff_over(one)
        assert one.ready

    def test_backoff_grows_and_is_bounded(self) -> None:
        waits = [POLICY.retry_backoff.seconds(failures) for failures in (1, 2, 3, 4, 9)]
        assert waits == pytest.approx([2, 8, 32, 60, 60], rel=POLICY.retry_backoff.jitter)

    def test_a_users_error_is_never_retried(self) -> None:
        one = order("running", "running")
        reported(one, one.attempts[0], failed(user_fault=True), POLICY, NOW, NOW)
        event = only(one)
        assert isinstance(event, GenerationFailed)
        assert event.code == "invalid_input"

    def test_the_last_failure_is_final_only_after_a_lookup(self) -> None:
        one = order("running", "failed", "failed", "running", failures=2)
        reported(one, one.attempts[2], failed(), POLICY, NOW, NOW)
        event = only(one)
        assert isinstance(event, OutputSought)
        assert event.expected_extension == "mp4"
        assert [claim.attempt_number for claim in event.claims] == [3, 2, 1]
        assert one.status == "running"
        output_missing(one, missing(one), POLICY, LATER)
        assert (one.status, one.failure_code) == ("failed", "execution_failed")

    def test_a_lost_job_is_looked_up_before_it_is_retried(self) -> None:
        one = order("running", "running")
        reported(one, one.attempts[0], lost_job(), POLICY, NOW, None)
        assert (one.attempts[0].status, names(one)) == ("lost", ["OutputSought"])
        output_missing(one, missing(one), POLICY, LATER)
        assert (one.status, names(one)[-1]) == ("queued", "AttemptFailed")

    def test_a_file_found_after_a_lost_job_completes_the_order(self) -> None:
        one = order("running", "running")
        reported(one, one.attempts[0], lost_job(), POLICY, NOW, None)
        asset_stored(one, stored(one), LATER)
        assert (one.status, one.late, one.attempts[0].status) == ("completed", False, "succeeded")

    def test_an_answer_to_an_older_lookup_changes_nothing(self) -> None:
        one = order("running", "running")
        reported(one, one.attempts[0], lost_job(), POLICY, NOW, None)
        assert one.lookup is not None
        asked_version = one.lookup.version
        reported(one, one.attempts[0], uploaded(), POLICY, NOW, NOW)
        output_missing(one, missing(one, asked_version), POLICY, LATER)
        assert one.status == "storing"

    def test_a_report_on_an_attempt_that_is_over_changes_nothing(self) -> None:
        one = order("dispatching", "failed", "submitted")
        reported(one, one.attempts[0], failed(), POLICY, NOW, NOW)
        reported(one, one.attempts[0], lost_job(), POLICY, NOW, NOW)
        assert (one.status, one.version, one.events) == ("dispatching", 4, [])

    def test_a_rejected_file_is_retried(self) -> None:
        one = order("storing", "succeeded", verifying_number=1)
        asset_rejected(one, rejected(one), POLICY, NOW)
        event = only(one)
        assert isinstance(event, AttemptFailed)
        assert (event.code, one.status) == ("output_rejected", "queued")

    def test_a_rejected_file_of_the_only_attempt_allowed_fails_the_order(self) -> None:
        one = order("storing", "succeeded", verifying_number=1)
        asset_rejected(one, rejected(one, "not_found"), NO_RETRY, NOW)
        assert (one.status, one.failure_code) == ("failed", "output_missing")

    def test_a_rejection_of_another_attempts_file_changes_nothing(self) -> None:
        one = order("storing", "succeeded", "failed", verifying_number=1)
        asset_rejected(one, rejected(one), POLICY, NOW)
        assert (one.status, one.events) == ("storing", [])


class TestCompletion:
    def test_a_stored_file_is_charged_in_full(self) -> None:
        one = order("storing", "succeeded", verifying_number=1)
        one.attempts[0].execution_ms = 1500
        asset_stored(one, stored(one), NOW)
        event = only(one)
        assert isinstance(event, GenerationCompleted)
        assert (event.capture_credits, event.late, event.worker_seconds) == (30, False, 1.5)

    def test_a_file_stored_twice_completes_once(self) -> None:
        one = order("storing", "succeeded", verifying_number=1)
        asset_stored(one, stored(one), NOW)
        asset_stored(one, stored(one), LATER)
        assert names(one) == ["GenerationCompleted"]

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_a_result_after_the_credits_went_back_is_delivered_free(self, status: OrderStatus) -> None:
        one = order(status, "lost", finished_at=NOW)
        reported(one, one.attempts[0], uploaded(), POLICY, LATER, LATER)
        assert (one.status, names(one)) == (status, ["OutputReady"])
        asset_stored(one, stored(one), LATER)
        event = one.events[-1]
        assert isinstance(event, GenerationCompleted)
        assert (event.capture_credits, event.late) == (0, True)

    def test_versions_grow_with_every_announcement(self) -> None:
        one = order("dispatching", "prepared")
        submitted(one, one.attempts[0], 1, "job-1", POLICY, NOW)
        started(one, one.attempts[0], NOW)
        reported(one, one.attempts[0], uploaded(), POLICY, NOW, NOW)
        asset_stored(one, stored(one), NOW)
        assert [event.version for event in one.events] == [5, 6, 7, 8]  # type: ignore[attr-defined]


class TestCancel:
    def test_a_queued_order_is_cancelled_at_once(self) -> None:
        one = order("queued", ready=True)
        cancel(one, POLICY, NOW)
        assert (one.status, one.ready, names(one)) == ("cancelled", False, ["GenerationCancelled"])

    @pytest.mark.parametrize(("status", "attempt"), [("dispatching", "submitted"), ("running", "running")])
    def test_a_job_is_stopped_before_the_order_is_cancelled(self, status: OrderStatus, attempt: AttemptStatus) -> None:
        one = order(status, attempt)
        cancel(one, POLICY, NOW)
        assert (one.status, one.attempts[0].cancel_due_at) == ("cancelling", NOW)
        provider_cancelled(one, one.attempts[0], LATER)
        assert (one.status, names(one)) == ("cancelled", ["GenerationCancelling", "GenerationCancelled"])

    @pytest.mark.parametrize("attempt", ["prepared", "unknown", "submitted", "running"])
    def test_a_cancel_that_may_stop_no_worker_leaves_running_work(self, attempt: AttemptStatus) -> None:
        one = order("running", attempt)
        cancel(one, POLICY, NOW, stop_running=False)
        assert (one.status, one.attempts[0].cancel_due_at, one.events) == ("running", None, [])

    @pytest.mark.parametrize("attempts", [(), ("failed",)])
    def test_a_cancel_that_may_stop_no_worker_ends_waiting_work(self, attempts: tuple[AttemptStatus, ...]) -> None:
        one = order("queued", *attempts, ready=True)
        cancel(one, POLICY, NOW, stop_running=False)
        assert one.status == "cancelled"

    def test_a_cancel_during_the_submission_waits_for_its_answer(self) -> None:
        one = order("dispatching", "prepared")
        cancel(one, POLICY, NOW)
        assert one.status == "cancelling"
        submitted(one, one.attempts[0], 1, "job-1", POLICY, LATER)
        assert (one.attempts[0].cancel_due_at, names(one)) == (LATER, ["GenerationCancelling"])

    def test_a_cancel_during_a_refused_submission_takes_effect(self) -> None:
        one = order("dispatching", "prepared")
        cancel(one, POLICY, NOW)
        refused(one, one.attempts[0], 1, "503", LATER)
        assert one.status == "cancelled"

    def test_an_order_without_a_known_job_is_cancelled_at_once(self) -> None:
        one = order("dispatching", "unknown")
        cancel(one, POLICY, NOW)
        assert one.status == "cancelled"

    def test_a_cancel_during_a_lookup_wins(self) -> None:
        one = order("running", "running")
        reported(one, one.attempts[0], lost_job(), POLICY, NOW, None)
        cancel(one, POLICY, NOW)
        output_missing(one, missing(order("running"), one.version), POLICY, LATER)
        assert one.status == "cancelled"

    @pytest.mark.parametrize("status", ["storing", "completed", "failed", "cancelled", "cancelling"])
    def test_a_cancel_after_the_decision_changes_nothing(self, status: OrderStatus) -> None:
        one = order(status, "succeeded")
        cancel(one, POLICY, NOW)
        assert (one.status, one.events) == (status, [])

    def test_a_result_that_arrives_while_cancelling_is_delivered_free(self) -> None:
        one = order("running", "running")
        cancel(one, POLICY, NOW)
        reported(one, one.attempts[0], uploaded(), POLICY, LATER, LATER)
        assert (one.status, names(one)) == ("cancelled", ["GenerationCancelling", "GenerationCancelled", "OutputReady"])
        asset_stored(one, stored(one), LATER)
        assert one.late

    def test_a_provider_that_does_not_confirm_a_cancel_does_not_delay_it(self) -> None:
        one = order("running", "running")
        cancel(one, POLICY, NOW)
        assert one.deadline_at == NOW + POLICY.cancel_timeout
        deadline_passed(one, POLICY, one.deadline_at)
        assert one.status == "cancelled"
        assert one.attempts[0].cancel_due_at is not None, "the provider is still to be told"


class TestDeadlines:
    def test_an_order_that_was_never_submitted_fails_at_its_deadline(self) -> None:
        one = order("queued", "refused", ready=True)
        deadline_passed(one, POLICY, one.expires_at)
        assert (one.status, one.failure_code) == ("failed", "deadline_exceeded")

    @pytest.mark.parametrize("attempt", ["prepared", "unknown", "submitted", "running"])
    def test_an_order_that_may_have_run_is_looked_up_before_it_fails(self, attempt: AttemptStatus) -> None:
        one = order("running", attempt)
        deadline_passed(one, POLICY, one.expires_at)
        assert (one.attempts[0].status, names(one)) == ("lost", ["OutputSought"])
        output_missing(one, missing(one), POLICY, one.expires_at)
        assert (one.status, one.failure_code) == ("failed", "deadline_exceeded")

    def test_a_lookup_without_an_answer_ends(self) -> None:
        one = order("queued", "lost", ready=True)
        deadline_passed(one, POLICY, one.expires_at)
        assert not one.ready
        assert one.deadline_at == one.expires_at + POLICY.lookup_timeout
        deadline_passed(one, POLICY, one.deadline_at)
        assert one.status == "failed"

    def test_storage_gets_its_time_even_after_the_orders_deadline(self) -> None:
        one = order("running", "running", expires_at=NOW + timedelta(seconds=1))
        reported(one, one.attempts[0], uploaded(), POLICY, NOW, NOW)
        assert one.deadline_at == NOW + POLICY.storing_timeout
        deadline_passed(one, POLICY, one.deadline_at)
        assert (one.status, names(one)) == ("storing", ["OutputReady", "OutputSought"])

    def test_an_order_past_its_deadline_is_not_retried(self) -> None:
        one = order("running", "running", expires_at=NOW)
        reported(one, one.attempts[0], failed(), POLICY, NOW, NOW)
        output_missing(one, missing(one), POLICY, NOW)
        assert one.status == "failed"


class TestReportsOfOneFile:
    def test_a_late_file_is_announced_as_late(self) -> None:
        one = order("failed", "lost", finished_at=NOW)
        reported(one, one.attempts[0], uploaded(), POLICY, LATER, None)
        announced = only(one)
        assert isinstance(announced, OutputReady)
        assert announced.late
        assert one.status == "failed"

    def test_a_file_that_comes_in_time_is_not_late(self) -> None:
        one = order("running", "running")
        reported(one, one.attempts[0], uploaded(), POLICY, LATER, None)
        announced = only(one)
        assert isinstance(announced, OutputReady)
        assert not announced.late

    def test_a_rejected_file_that_is_reported_again_does_not_stop_the_retry(self) -> None:
        one = order("storing", "succeeded", verifying_number=1)
        asset_rejected(one, rejected(one), POLICY, LATER)
        retry = attempt(2, "running")
        one.attempts.append(retry)
        one.attempt_count = 2
        one.move_to("running")
        one.events.clear()
        reported(one, one.attempts[0], uploaded(), POLICY, LATER, None)
        assert (one.status, retry.status, one.failures, one.events) == ("running", "running", 1, [])

    def test_after_a_rejected_file_that_of_another_finished_attempt_is_looked_up_first(self) -> None:
        one = order("storing", "succeeded", "succeeded", verifying_number=1)
        refusal = msgspec.structs.replace(
            rejected(one), attempt_id=one.attempts[0].attempt_id, attempt_number=one.attempts[0].attempt_number
        )
        asset_rejected(one, refusal, POLICY, LATER)
        assert names(one) == ["OutputSought"]
