"""Whatever happens to an order, in whatever order: it ends, once for its credits, and everybody sees the same end."""

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.generation import GenerationCancelled, GenerationCompleted, GenerationFailed, OutputReady, OutputSought
from contracts.message import Message
from contracts.storage import AssetRejected, AssetStored
from gateway.handlers import REACTIONS, Changes
from generation.domain.lifecycle import backoff_over, cancel, deadline_passed, provider_cancelled
from generation.domain.order import Attempt
from generation.domain.policy import Policy
from generation.domain.provider_events import (
    dispatcher_died,
    refused,
    rejected,
    reported,
    submission_timed_out,
    submitted,
    unanswered,
)
from generation.domain.provider_reports import JobQueued, JobRunning
from generation.domain.statuses import FINAL_ORDER_STATUSES
from generation.domain.storage_events import asset_rejected, asset_stored, output_missing
from messaging.ids import new_id
from messaging.received import Received
from tests.generation import domain_orders
from tests.generation.domain_orders import NOW

MOST_ROUNDS: Final = 20
"""Deadlines that may pass until an order has ended about which nobody says anything any more."""


class Course:
    """One order, its provider, and storage, which answers whenever it is asked to."""

    def __init__(
        self, generation_id: UUID, policy: Policy, chance: random.Random, start_before_seconds: int | None
    ) -> None:
        start_before_at = None if start_before_seconds is None else NOW + timedelta(seconds=start_before_seconds)
        self.order = domain_orders.order(
            "queued", generation_id=generation_id, version=1, ready=True, start_before_at=start_before_at
        )
        self.order.deadline_at = self.order.work_deadline_at
        self.policy, self.chance, self.now = policy, chance, NOW
        self.events: list[Message] = []
        self.asked: list[OutputReady | OutputSought] = []
        self.file: AssetStored | None = None

    def step(self, act: Callable[["Course"], None]) -> None:
        act(self)
        self.events += self.order.events
        self.asked += [event for event in self.order.events if isinstance(event, OutputReady | OutputSought)]
        self.order.events.clear()
        assert not self.order.ready or self.order.status == "queued"

    def attempt(self) -> Attempt | None:
        return self.chance.choice(self.order.attempts) if self.order.attempts else None

    def claim(self) -> None:
        order = self.order
        if order.status == "queued" and order.ready:
            order.status, order.ready = "dispatching", False
            order.version += 1
            order.attempt_count += 1
            made = domain_orders.attempt(order.attempt_count, "prepared")
            made.sending_at = self.chance.choice([None, self.now])
            order.attempts.append(made)

    def answer_submission(self) -> None:
        """As one of two dispatchers, of which one may have lost its lease."""
        one = self.attempt()
        if one is None:
            return
        order, fence = self.order, self.chance.choice([1, one.fence_token])
        match self.chance.randrange(6):
            case 0:
                refused(order, one, fence, "429", self.now)
            case 1:
                rejected(order, one, fence, "400", self.policy, self.now)
            case 2:
                unanswered(order, one, fence, self.policy, self.now)
            case 3:
                dispatcher_died(order, one, fence, self.policy, self.now)
            case _:
                submitted(order, one, fence, f"job-{one.attempt_number}", self.policy, self.now)

    def report(self) -> None:
        one = self.attempt()
        # A provider says nothing of what it was never asked for.
        if one is None or not one.may_have_been_sent or one.status == "refused":
            return
        job_id = f"job-{one.attempt_number}"
        made = (
            JobQueued(job_id),
            JobRunning(job_id),
            domain_orders.uploaded(job_id),
            domain_orders.failed(user_fault=self.chance.random() < 0.2),
            domain_orders.lost_job(),
        )
        reported(self.order, one, self.chance.choice(made), self.policy, self.now, None)

    def time_out_submission(self) -> None:
        one = self.attempt()
        if one is not None and one.provider_job_id is None and one.status != "prepared":
            submission_timed_out(self.order, one, self.policy, self.now)

    def stop_job(self) -> None:
        one = self.attempt()
        if one is not None and one.cancel_due_at is not None:
            provider_cancelled(self.order, one, self.now)

    def storage_answers(self) -> None:
        """Any of its open questions. Once a generation has a file, that is the answer to all of them."""
        if not self.asked:
            return
        question = self.asked.pop(self.chance.randrange(len(self.asked)))
        claims = (question.claim,) if isinstance(question, OutputReady) else question.claims
        if self.file is None and self.chance.random() < 0.5:
            self.file = domain_orders.stored(self.order, self.chance.choice(claims).attempt_id)
        if self.file is not None:
            asset_stored(self.order, self.file, self.now)
        elif isinstance(question, OutputSought):
            output_missing(self.order, domain_orders.missing(self.order, question.version), self.policy, self.now)
        else:
            answer = domain_orders.rejected(self.order)
            of_claim = {"attempt_id": claims[0].attempt_id, "attempt_number": claims[0].attempt_number}
            asset_rejected(self.order, _changed(answer, of_claim), self.policy, self.now)

    def cancel(self) -> None:
        """Seldom, or hardly an order would come far."""
        if self.chance.random() < 0.1:
            cancel(self.order, self.policy, self.now, stop_running=self.chance.random() < 0.7)

    def wait(self) -> None:
        self.now += timedelta(seconds=self.chance.choice([1, 60, 600]))
        if self.now >= self.order.next_attempt_at:
            backoff_over(self.order)
        if self.now >= self.order.deadline_at and self.order.status not in FINAL_ORDER_STATUSES:
            deadline_passed(self.order, self.policy, self.now)

    def let_the_deadline_pass(self) -> None:
        self.now = max(self.now, self.order.deadline_at)
        deadline_passed(self.order, self.policy, self.now)


def _changed(message: AssetRejected, values: dict[str, object]) -> AssetRejected:
    return msgspec.structs.replace(message, **values)


ACTS: Final[Sequence[Callable[[Course], None]]] = (
    Course.claim,
    Course.claim,
    Course.answer_submission,
    Course.answer_submission,
    Course.report,
    Course.report,
    Course.time_out_submission,
    Course.stop_job,
    Course.storage_answers,
    Course.cancel,
    Course.wait,
)


def charged_or_released(events: Sequence[Message]) -> list[bool]:
    """For each outcome that billing hears of, in order: whether it charges. A late completion charges nothing."""
    outcomes = [one for one in events if isinstance(one, GenerationCompleted | GenerationFailed | GenerationCancelled)]
    assert all(
        one.capture_credits == (0 if one.late else 30) for one in outcomes if isinstance(one, GenerationCompleted)
    )
    return [
        isinstance(one, GenerationCompleted)
        for one in outcomes
        if not (isinstance(one, GenerationCompleted) and one.late)
    ]


@settings(max_examples=300)
@given(
    generation_id=st.uuids(),  # the pauses between attempts depend on it
    acts=st.lists(st.sampled_from(ACTS), max_size=60),
    chance=st.randoms(use_true_random=False),
    attempts=st.integers(1, 3),
    start_before_seconds=st.none() | st.integers(1, 1000),
)
def test_an_order_ends_once_and_is_shown_as_it_ended(
    generation_id: UUID,
    acts: Sequence[Callable[[Course], None]],
    chance: random.Random,
    attempts: int,
    start_before_seconds: int | None,
) -> None:
    course = Course(generation_id, Policy(max_attempts=attempts), chance, start_before_seconds)
    for act in acts:
        course.step(act)
    for _ in range(MOST_ROUNDS):
        if course.order.status in FINAL_ORDER_STATUSES:
            break
        course.step(Course.let_the_deadline_pass)
    order = course.order
    assert order.status in FINAL_ORDER_STATUSES
    # What storage has been asked may be answered after the end, too.
    for act in (Course.storage_answers,) * len(course.asked):
        course.step(act)

    assert len(charged_or_released(course.events)) == 1, "one outcome decides on the credits"
    if course.file is not None:
        assert order.status == "completed", "a file is delivered"
    assert not any(attempt.live for attempt in order.attempts), "nothing runs for an order that has ended"
    versions = [event.version for event in course.events if hasattr(event, "version")]
    assert versions == sorted(set(versions)), "each change has a version of its own"
    chance.shuffle(course.events)
    changes = Changes()
    for event in course.events:
        if type(event) in REACTIONS:
            REACTIONS[type(event)](changes, _received(event))
    shown = changes.generation(order.generation_id).transition
    assert shown is not None
    assert (shown.status, shown.late) == (order.status, order.late)


def _received(message: Message) -> Received[Message]:
    return Received(new_id(), message.subject, message, uuid4(), None, NOW, None, 1)
