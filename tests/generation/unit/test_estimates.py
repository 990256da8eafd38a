"""Estimates: quantiles of what was measured, and never a promise about the past."""

import random
from datetime import timedelta
from typing import Final
from uuid import uuid4

import pytest

from generation.domain.estimates import (
    ActiveOrder,
    Likely,
    OrderEstimate,
    busy_slot,
    estimate_active,
    estimate_waiting,
    measure,
    wait_ratio,
)
from generation.domain.measured_times import PRIORS, WINDOW, Distribution, MeasuredTimes, MeasureKey
from generation.domain.order import Order
from generation.track_record import TrackRecord
from tests.generation.domain_orders import NOW, order
from tests.generation.unit.test_fair_forecast import endpoint, waiting

NOTHING: Final = MeasuredTimes({})
MODEL: Final = "wan-2.2-text-to-video"


def measured(*, run: list[float], wait: float = 1.0) -> MeasuredTimes:
    """A model whose workers are warm, whose files are stored in a second, and that was measured enough."""
    return MeasuredTimes(
        {
            MeasureKey("run", "m", "standard"): run,
            MeasureKey("handover", "m", "standard"): [1.0] * 10,
            MeasureKey("storing", "m", "standard"): [1.0] * 10,
            MeasureKey("wait", "m", "standard"): [wait] * 10,
        }
    )


def active(*, prepared: float = 1.0, running: float | None = None) -> ActiveOrder:
    return ActiveOrder(uuid4(), uuid4(), "standard", "m", 10.0, prepared, running)


class TestDistribution:
    def test_a_quantile_is_exceeded_as_often_as_it_says(self) -> None:
        source = random.Random(7)
        held = 0
        for _ in range(2000):
            window = Distribution(sorted(source.lognormvariate(0, 1) for _ in range(20)))
            held += source.lognormvariate(0, 1) <= window.quantile(0.9)
        assert held / 2000 == pytest.approx(0.9, abs=0.02)

    def test_a_single_outlier_does_not_move_it(self) -> None:
        calm = Distribution([1.0] * 99)
        shaken = Distribution([1.0] * 99 + [3600.0])
        assert (shaken.quantile(0.5), shaken.quantile(0.9)) == (calm.quantile(0.5), calm.quantile(0.9))
        assert shaken.mean == calm.mean

    def test_few_values_have_quantiles_between_them(self) -> None:
        assert Distribution([3.0]).quantile(0.9) == 3.0
        assert Distribution([1.0, 3.0]).quantile(0.5) == 2.0

    @pytest.mark.parametrize("elapsed", [0.0, 0.5, 3.9, 4.0, 7.9, 8.0, 8.1, 1e6])
    def test_what_has_lasted_goes_on(self, elapsed: float) -> None:
        times = Distribution([float(value) for value in range(1, 9)])
        median, latest = times.quantile_beyond(0.5, elapsed), times.quantile_beyond(0.9, elapsed)
        assert elapsed <= median <= latest
        assert median > elapsed or elapsed == 0.0


class TestMeasuredTimes:
    def test_what_was_never_measured_is_assumed(self) -> None:
        assert list(NOTHING.distribution("run", "m", "pro").values) == sorted(PRIORS["run"])

    def test_another_lane_of_the_model_stands_in_for_it(self) -> None:
        times = MeasuredTimes({MeasureKey("run", "m", "pro"): [5.0] * 20})
        assert times.distribution("run", "m", "free").quantile(0.5) == 5.0
        assert times.distribution("run", "other", "pro").quantile(0.5) == 1.0

    def test_a_lane_that_was_measured_speaks_for_itself(self) -> None:
        times = MeasuredTimes({MeasureKey("run", "m", "pro"): [5.0] * 20, MeasureKey("run", "m", "free"): [2.0] * 8})
        assert times.distribution("run", "m", "free").quantile(0.9) == 2.0

    def test_little_that_was_measured_is_mixed_with_what_is_assumed(self) -> None:
        times = MeasuredTimes({MeasureKey("run", "m", "pro"): [5.0] * 3})
        assert sorted([5.0] * 3 + list(PRIORS["run"])) == list(times.distribution("run", "m", "pro").values)


class TestUnderWay:
    def test_running_work_ends_after_what_is_left_of_its_run_and_its_storing(self) -> None:
        told = estimate_active(active(running=4.0), measured(run=[1.0] * 10))
        assert (told.completion.p50, told.start, told.position) == (10.0 - 4.0 + 1.0, None, None)

    def test_work_that_lasts_longer_than_usual_ends_later_and_never_earlier(self) -> None:
        times = measured(run=[0.8, 0.9, 1.0, 1.1, 1.2] * 4)
        expected = [
            seconds + estimate_active(active(running=seconds), times).completion.p50 for seconds in range(0, 60, 2)
        ]
        assert expected == sorted(expected)
        for seconds in range(60):
            told = estimate_active(active(running=seconds), times).completion
            assert 0 < told.p50 <= told.p90

    def test_a_job_at_the_provider_has_a_start_and_a_completion(self) -> None:
        told = estimate_active(active(prepared=0.5), measured(run=[1.0] * 10))
        assert told.start == Likely(0.5, 0.5)
        assert told.completion.p50 == 0.5 + 10.0 + 1.0

    def test_an_order_without_a_plan_has_estimates(self) -> None:
        unplanned = ActiveOrder(uuid4(), uuid4(), "free", "m", None, 0.0, None)
        assert estimate_active(unplanned, NOTHING).completion.p50 > 0

    def test_the_place_of_a_job_becomes_free_when_its_run_ends(self) -> None:
        times = measured(run=[1.0] * 10)
        assert busy_slot(active(running=4.0), times).seconds == 6.0
        assert busy_slot(active(prepared=0.0), times).seconds == 11.0


class TestInTheQueue:
    def test_each_order_is_told_its_position_start_and_completion(self) -> None:
        told = estimate_waiting(endpoint(waiting(3), slots=1), measured(run=[1.0] * 10))
        assert [one.position for one in told] == [1, 2, 3]
        assert [one.start and round(one.start.p50, 6) for one in told] == [1.0, 12.0, 23.0]
        assert [round(one.completion.p50, 6) for one in told] == [12.0, 23.0, 34.0]

    def test_what_forecasts_were_worth_corrects_them(self) -> None:
        plain, slower = (
            estimate_waiting(endpoint(waiting(3), slots=1), measured(run=[1.0] * 10, wait=wait))[2]
            for wait in (1.0, 2.0)
        )
        assert plain.start is not None
        assert slower.start is not None
        assert slower.start.p50 == pytest.approx(2 * plain.start.p50 + 1)
        assert slower.forecast_seconds == plain.forecast_seconds

    def test_a_forecast_that_rests_on_assumptions_is_not_held_against_the_truth(self) -> None:
        [assumed] = estimate_waiting(endpoint(waiting(1)), NOTHING)
        [known] = estimate_waiting(endpoint(waiting(1)), measured(run=[1.0] * 10))
        assert assumed.forecast_seconds is None
        assert known.forecast_seconds == 1.0

    def test_places_that_are_free_between_two_jobs_make_every_later_turn_later(self) -> None:
        told = estimate_waiting(endpoint(waiting(3), slots=1), measured(run=[1.0] * 10), used_share=0.5)
        assert [one.start and round(one.start.p50, 6) for one in told] == [1.0, 23.0, 45.0]

    def test_delays_that_are_independent_do_not_all_come_together(self) -> None:
        [told] = estimate_waiting(endpoint(waiting(1)), NOTHING)
        assert told.start is not None
        parts = [told.start, Likely(10.0, 20.0), Likely(2.0, 8.0)]
        assert told.completion.p90 < sum(part.p90 for part in parts)
        assert told.completion.p90 > told.completion.p50


def delivered(**changes: object) -> Order:
    """An order of 10 planned seconds that was delivered: handed over in 2 s, run in 20 s, stored in 3 s."""
    one = order("completed", "succeeded", planned_seconds=10.0, verifying_number=1, **changes)
    [attempt] = one.attempts
    attempt.prepared_at = NOW
    attempt.started_at = NOW + timedelta(seconds=2)
    attempt.ended_at = NOW + timedelta(seconds=22)
    one.finished_at = NOW + timedelta(seconds=25)
    return one


class TestTrackRecord:
    def test_a_delivered_order_says_how_long_each_part_took(self) -> None:
        said = measure(delivered())
        assert (said.handover_seconds, said.run_ratio, said.storing_seconds) == (2.0, 2.0, 3.0)

    def test_a_worker_that_never_reported_is_measured_by_the_provider(self) -> None:
        one = delivered()
        one.attempts[0].started_at, one.attempts[0].execution_ms = None, 15_000
        said = measure(one)
        assert (said.handover_seconds, said.run_ratio) == (7.0, 1.5)

    def test_an_attempt_that_nobody_timed_says_only_how_long_storing_took(self) -> None:
        one = delivered()
        one.attempts[0].started_at = None
        said = measure(one)
        assert (said.handover_seconds, said.run_ratio, said.storing_seconds) == (None, None, 3.0)

    def test_an_attempt_without_a_time_of_preparation_says_nothing_of_its_handover(self) -> None:
        one = delivered()
        one.attempts[0].prepared_at = None
        said = measure(one)
        assert (said.handover_seconds, said.run_ratio, said.storing_seconds) == (None, 2.0, 3.0)

    def test_a_file_of_no_known_attempt_says_nothing(self) -> None:
        one = delivered()
        one.verifying_number = None
        assert measure(one).run_ratio is None

    def test_what_was_told_is_held_against_what_was_true(self) -> None:
        record, one = TrackRecord(), delivered()
        told = OrderEstimate(one.generation_id, one.user_id, Likely(30, 60), Likely(5, 9), 1, forecast_seconds=4.0)
        record.give([told], NOW - timedelta(seconds=7))
        record.delivered(one)
        taken = record.take()
        assert list(taken[MeasureKey("wait", MODEL, "standard")]) == [wait_ratio(4.0, 9.0)] == [2.0]
        assert list(taken[MeasureKey("run", MODEL, "standard")]) == [2.0]
        assert record.take() == {}

    def test_what_could_not_be_shared_is_shared_later_and_stays_bounded(self) -> None:
        record = TrackRecord()
        record.delivered(delivered())
        taken = record.take()
        for _ in range(2 * WINDOW):
            record.delivered(delivered())
        record.requeue(taken)
        assert all(len(values) == WINDOW for values in record.take().values())
