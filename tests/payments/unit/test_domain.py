"""Folding a provider's state into ours: the same end from every order, and nothing twice."""

from itertools import permutations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain import TAKING, Advance, Movement, ProviderDispute, ProviderRefund, Snapshot, Standing
from payments.domain import advance as fold

PAYMENT = UUID("01999c10-0a0b-7c0d-8e0f-101112131415")


def standing(**changes: object) -> Standing:
    values: dict[str, object] = {
        "payment_id": PAYMENT,
        "status": "pending",
        "price_cents": 1000,
        "currency": "usd",
        "credits": 1000,
        "bonus_credits": 50,
    }
    return Standing(**(values | changes))  # type: ignore[arg-type]


def snapshot(state: str = "paid", **changes: object) -> Snapshot:
    values: dict[str, object] = {
        "reference": "cs_1",
        "state": state,
        "paid_cents": 1000 if state == "paid" else 0,
        "currency": "usd",
    }
    return Snapshot(**(values | changes))  # type: ignore[arg-type]


def apply(before: Standing, step: Advance) -> Standing:
    return standing(
        status=step.status,
        price_cents=before.price_cents,
        credits=before.credits,
        bonus_credits=before.bonus_credits,
        refunded_cents=step.refunded_cents,
        movements=(*before.movements, *step.movements),
        resolution=before.resolution,
        decided=before.decided,
    )


def balance(movements: tuple[Movement, ...]) -> int:
    taken = sum(m.amount_credits for m in movements if m.kind in TAKING)
    return sum(m.amount_credits for m in movements if m.kind not in TAKING) - taken


def test_a_paid_checkout_grants_the_pack_and_its_bonus_once() -> None:
    step = fold(standing(), snapshot())
    assert step.status == "settled"
    assert step.movements == (Movement("purchase", "", 1000), Movement("bonus", "", 50))
    assert fold(apply(standing(), step), snapshot()).movements == ()


@pytest.mark.parametrize(("state", "status"), [("open", "pending"), ("expired", "expired"), ("failed", "failed")])
def test_an_unpaid_checkout_moves_no_credits(state: str, status: str) -> None:
    step = fold(standing(), snapshot(state))
    assert (step.status, step.movements) == (status, ())


def test_a_delayed_method_stays_pending_until_the_bank_answers() -> None:
    step = fold(standing(), snapshot("processing"))
    assert (step.status, step.reason, step.movements) == ("pending", "processing", ())


def test_an_expired_payment_that_turns_out_paid_is_credited() -> None:
    assert fold(standing(status="expired"), snapshot()).status == "settled"


def test_a_full_refund_takes_back_everything_bonus_included() -> None:
    settled = apply(standing(), fold(standing(), snapshot()))
    step = fold(settled, snapshot(refunds=(ProviderRefund("re_1", 1000, "succeeded"),)))
    assert step.status == "refunded"
    assert balance((*settled.movements, *step.movements)) == 0


def test_partial_refunds_take_their_share_and_the_last_one_the_rest() -> None:
    state = apply(standing(), fold(standing(), snapshot()))
    first = (ProviderRefund("re_1", 333, "succeeded"),)
    state = apply(state, fold(state, snapshot(refunds=first)))
    assert balance(state.movements) == 1050 - 1050 * 333 // 1000
    state = apply(state, fold(state, snapshot(refunds=(*first, ProviderRefund("re_2", 667, "succeeded")))))
    assert balance(state.movements) == 0


def test_a_refund_that_fails_later_gives_back_exactly_what_it_took() -> None:
    state = apply(standing(), fold(standing(), snapshot()))
    state = apply(state, fold(state, snapshot(refunds=(ProviderRefund("re_1", 400, "pending"),))))
    step = fold(state, snapshot(refunds=(ProviderRefund("re_1", 400, "failed"),)))
    assert step.status == "settled"
    assert balance((*state.movements, *step.movements)) == 1050


def test_a_dispute_takes_the_credits_and_winning_it_returns_them() -> None:
    state = apply(standing(), fold(standing(), snapshot()))
    opened = fold(state, snapshot(disputes=(ProviderDispute("dp_1", 1000, "open"),)))
    assert opened.status == "disputed"
    state = apply(state, opened)
    assert balance(state.movements) == 0
    won = fold(state, snapshot(disputes=(ProviderDispute("dp_1", 1000, "won"),)))
    assert won.status == "settled"
    assert balance((*state.movements, *won.movements)) == 1050


def test_an_inquiry_moves_nothing() -> None:
    state = apply(standing(), fold(standing(), snapshot()))
    step = fold(state, snapshot(disputes=(ProviderDispute("dp_1", 1000, "warning"),)))
    assert (step.status, step.movements) == ("settled", ())


def test_a_lost_dispute_seen_only_at_its_end_takes_the_credits() -> None:
    step = fold(standing(), snapshot(disputes=(ProviderDispute("dp_1", 1000, "lost"),)))
    assert step.status == "dispute_lost"
    assert balance(step.movements) == 0


def test_a_refund_and_a_dispute_of_the_same_money_never_take_more_than_was_granted() -> None:
    seen = snapshot(
        refunds=(ProviderRefund("re_1", 1000, "succeeded"),), disputes=(ProviderDispute("dp_1", 1000, "lost"),)
    )
    step = fold(standing(), seen)
    assert balance(step.movements) == 0


@pytest.mark.parametrize("mismatch", ["underpaid", "late", "amount_mismatch"])
def test_money_that_does_not_match_waits_for_a_person(mismatch: str) -> None:
    step = fold(standing(), snapshot(paid_cents=400, mismatch=mismatch))
    assert step.status == "review"
    assert step.review is not None
    assert step.review.code == mismatch
    assert (step.review.expected, step.review.found) == ("1000 cents usd", "400 cents usd")
    assert step.movements == ()


def test_less_money_than_the_price_is_never_credited_even_when_the_provider_says_paid() -> None:
    assert fold(standing(), snapshot(paid_cents=999)).status == "review"
    assert fold(standing(), snapshot(currency="eur")).status == "review"


def test_a_surplus_grants_the_pack_and_opens_a_review() -> None:
    step = fold(standing(), snapshot(paid_cents=1500))
    assert step.status == "settled"
    assert step.review is not None
    assert step.review.code == "overpaid"


def test_a_provider_that_shows_less_later_undoes_nothing() -> None:
    settled = apply(standing(), fold(standing(), snapshot()))
    step = fold(settled, snapshot("open"))
    assert (step.status, step.movements) == ("settled", ())


def test_a_provider_that_forgets_a_refund_does_not_give_the_credits_back() -> None:
    settled = apply(standing(), fold(standing(), snapshot()))
    refunded = apply(settled, fold(settled, snapshot(refunds=(ProviderRefund("re_1", 1000, "succeeded"),))))
    for state in ("paid", "open", "failed"):
        step = fold(refunded, snapshot(state))
        assert (step.status, step.refunded_cents, step.movements) == ("refunded", 1000, ())


def test_what_a_failed_refund_gives_back_an_open_dispute_takes_again() -> None:
    state = apply(standing(), fold(standing(), snapshot()))
    pending, failed = ProviderRefund("re_1", 500, "pending"), ProviderRefund("re_1", 500, "failed")
    for refund, dispute, left in ((pending, None, 525), (pending, "open", 0), (failed, "open", 0), (failed, "lost", 0)):
        disputes = () if dispute is None else (ProviderDispute("dp_1", 1000, dispute),)  # type: ignore[arg-type]
        state = apply(state, fold(state, snapshot(refunds=(refund,), disputes=disputes)))
        assert balance(state.movements) == left
    assert state.status == "dispute_lost"


def test_a_dispute_that_is_lost_after_all_takes_again_what_winning_had_returned() -> None:
    state = apply(standing(), fold(standing(), snapshot()))
    for dispute, left in (("open", 0), ("won", 1050), ("lost", 0), ("won", 1050), ("lost", 0)):
        state = apply(state, fold(state, snapshot(disputes=(ProviderDispute("dp_1", 1000, dispute),))))  # type: ignore[arg-type]
        assert balance(state.movements) == left


def test_returning_a_surplus_costs_no_credits_and_going_below_the_price_does() -> None:
    state = apply(standing(), fold(standing(), snapshot(paid_cents=1500)))
    for cents, status, left in ((500, "settled", 1050), (1000, "partially_refunded", 525), (1500, "refunded", 0)):
        seen = snapshot(paid_cents=1500, refunds=(ProviderRefund("re_1", cents, "succeeded"),))
        state = apply(state, fold(state, seen))
        assert (state.status, state.refunded_cents, balance(state.movements)) == (status, cents, left)


def test_money_that_comes_again_after_a_refund_brings_the_credits_back() -> None:
    state = apply(standing(), fold(standing(), snapshot()))
    refund = (ProviderRefund("re_1", 1000, "succeeded"),)
    state = apply(state, fold(state, snapshot(refunds=refund)))
    assert balance(state.movements) == 0
    state = apply(state, fold(state, snapshot(paid_cents=2000, refunds=refund)))
    assert (state.status, balance(state.movements)) == ("settled", 1050)


@pytest.mark.parametrize("state", ["paid", "expired"])
def test_what_a_person_credited_goes_back_with_the_money_that_was_there(state: str) -> None:
    granted = (Movement("purchase", "", 1000), Movement("bonus", "", 50))
    credited = standing(status="settled", resolution="credited", movements=granted)
    short = {"paid_cents": 800, "mismatch": "underpaid"}
    assert fold(credited, snapshot(state, **short)).movements == ()
    for cents, status, left in ((400, "partially_refunded", 525), (800, "refunded", 0)):
        refund = (ProviderRefund("re_1", cents, "succeeded"),)
        step = fold(credited, snapshot(state, refunds=refund, **short))
        assert (step.status, balance((*granted, *step.movements))) == (status, left)


def test_what_a_person_dismissed_is_put_before_one_again_once_there_is_something_else() -> None:
    decided = frozenset({("underpaid", "400 cents usd")})
    dismissed = standing(status="failed", resolution="dismissed", decided=decided)
    same = fold(dismissed, snapshot("expired", paid_cents=400, mismatch="underpaid"))
    assert (same.status, same.review, same.movements) == ("failed", None, ())
    more = fold(dismissed, snapshot("expired", paid_cents=700, mismatch="underpaid"))
    assert (more.status, more.review and more.review.found) == ("review", "700 cents usd")
    all_of_it = fold(dismissed, snapshot())
    assert (all_of_it.status, all_of_it.review and all_of_it.review.code) == ("review", "paid_after_dismissal")
    again = standing(resolution="dismissed", decided=decided | {("paid_after_dismissal", "1000 cents usd")})
    assert fold(again, snapshot()).status == "failed"


EVENTS = {
    "paid": {},
    "refund made": {"refunds": (ProviderRefund("re_1", 250, "pending"),)},
    "refund failed": {"refunds": (ProviderRefund("re_1", 250, "failed"),)},
    "dispute": {
        "refunds": (ProviderRefund("re_1", 250, "failed"),),
        "disputes": (ProviderDispute("dp_1", 1000, "open"),),
    },
}


@pytest.mark.parametrize("order", list(permutations(EVENTS)))
def test_looks_in_any_order_end_like_the_last_look_alone(order: tuple[str, ...]) -> None:
    final = EVENTS["dispute"] | {"disputes": (ProviderDispute("dp_1", 1000, "won"),)}
    state = standing()
    for name in order:
        state = apply(state, fold(state, snapshot(**EVENTS[name])))
    state = apply(state, fold(state, snapshot(**final)))
    alone = apply(standing(), fold(standing(), snapshot(**final)))
    assert state.status == alone.status == "settled"
    assert balance(state.movements) == balance(alone.movements) == 1050


@given(
    looks=st.lists(
        st.tuples(
            st.lists(
                st.tuples(st.integers(1, 4000), st.sampled_from(["pending", "succeeded", "failed"])),
                min_size=3,
                max_size=3,
            ),
            st.lists(
                st.tuples(st.integers(1, 4000), st.sampled_from(["warning", "open", "won", "lost"])),
                min_size=2,
                max_size=2,
            ),
            st.integers(0, 3000),
        ),
        min_size=1,
        max_size=6,
    ),
    price=st.integers(1, 5000),
    credits=st.integers(1, 5000),
    bonus=st.integers(0, 500),
)
def test_after_every_look_the_credits_that_are_gone_are_those_that_the_lost_money_was_worth(
    looks: list[tuple[list[tuple[int, str]], list[tuple[int, str]], int]], price: int, credits: int, bonus: int
) -> None:
    state = standing(price_cents=price, credits=credits, bonus_credits=bonus)
    for refunds, disputes, surplus in looks:
        seen = snapshot(
            paid_cents=price + surplus,
            refunds=tuple(ProviderRefund(f"re_{n}", *one) for n, one in enumerate(refunds)),  # type: ignore[arg-type]
            disputes=tuple(ProviderDispute(f"dp_{n}", *one) for n, one in enumerate(disputes)),  # type: ignore[arg-type]
        )
        state = apply(state, fold(state, seen))
        gone = sum(cents for cents, said in refunds if said != "failed")
        gone += sum(cents for cents, said in disputes if said in ("open", "lost"))
        lost = min(price, max(0, gone - surplus))
        assert balance(state.movements) == credits + bonus - (credits + bonus) * lost // price
        assert fold(state, seen).movements == ()
        assert all(movement.amount_credits > 0 for movement in state.movements)
        identities = [(movement.kind, movement.reference) for movement in state.movements]
        assert len(identities) == len(set(identities))
