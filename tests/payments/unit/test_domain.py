"""Folding a provider's state into ours: the same end from every order, and nothing twice."""

from itertools import permutations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.domain import RETURNING, TAKING, Advance, Movement, ProviderDispute, ProviderRefund, Snapshot, Standing
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
        movements=(*before.movements, *step.movements),
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


refund_lists = st.lists(
    st.builds(
        ProviderRefund,
        reference=st.sampled_from(["re_1", "re_2", "re_3"]),
        amount_cents=st.integers(1, 400),
        state=st.sampled_from(["pending", "succeeded", "failed"]),
    ),
    unique_by=lambda refund: refund.reference,
    max_size=3,
)
dispute_lists = st.lists(
    st.builds(
        ProviderDispute,
        reference=st.sampled_from(["dp_1", "dp_2"]),
        amount_cents=st.integers(1, 1000),
        state=st.sampled_from(["warning", "open", "won", "lost"]),
    ),
    unique_by=lambda dispute: dispute.reference,
    max_size=2,
)


@given(
    looks=st.lists(st.tuples(refund_lists, dispute_lists), min_size=1, max_size=5),
    price=st.integers(1, 5000),
    credits=st.integers(1, 5000),
    bonus=st.integers(0, 500),
)
def test_no_sequence_of_looks_takes_more_than_was_granted_or_returns_more_than_was_taken(
    looks: list[tuple[list[ProviderRefund], list[ProviderDispute]]], price: int, credits: int, bonus: int
) -> None:
    state = standing(price_cents=price, credits=credits, bonus_credits=bonus)
    for refunds, disputes in looks:
        seen = snapshot(paid_cents=price, refunds=tuple(refunds), disputes=tuple(disputes))
        state = apply(state, fold(state, seen))
        taken = sum(m.amount_credits for m in state.movements if m.kind in TAKING)
        returned = sum(m.amount_credits for m in state.movements if m.kind in RETURNING)
        assert 0 <= taken - returned <= credits + bonus
        assert fold(state, seen).movements == ()
        assert all(movement.amount_credits > 0 for movement in state.movements)
        identities = [(movement.kind, movement.reference) for movement in state.movements]
        assert len(identities) == len(set(identities))
