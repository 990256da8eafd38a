"""Folding a provider's state into ours: the same end from every order, and nothing twice."""

from dataclasses import dataclass, replace
from itertools import permutations
from typing import TypedDict, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.payments import PaymentMismatch, PaymentReviewCode, PaymentStatus
from payments.domain.clawbacks import arrived_cents
from payments.domain.payment_state import TAKING, Movement, PaymentState, Resolution, Review
from payments.domain.snapshots import (
    CheckoutState,
    DisputeState,
    ProviderDispute,
    ProviderRefund,
    RefundState,
    Snapshot,
)
from payments.domain.transitions import Transition, apply_snapshot


@dataclass(frozen=True, slots=True)
class Folded(PaymentState):
    """A payment as it is after a snapshot."""

    refunded_cents: int = 0


NEW = Folded(
    status="pending",
    price_cents=1000,
    currency="usd",
    credits=1000,
    bonus_credits=50,
)


class Seen(TypedDict, total=False):
    """Fields of a snapshot that have a default in tests."""

    paid_cents: int
    currency: str
    mismatch: PaymentMismatch | None
    refunds: tuple[ProviderRefund, ...]
    disputes: tuple[ProviderDispute, ...]


def snapshot(state: CheckoutState = "paid", **seen: Unpack[Seen]) -> Snapshot:
    defaults = Snapshot("cs_1", state, paid_cents=1000 if state == "paid" else 0, currency="usd")
    return replace(defaults, **seen)


def after(before: Folded, transition: Transition) -> Folded:
    return replace(
        before,
        status=transition.status,
        refunded_cents=transition.refunded_cents,
        movements=(*before.movements, *transition.movements),
    )


def folded(before: Folded, seen: Snapshot) -> Folded:
    refunds = {one.reference: one for one in (*before.shown_refunds, *seen.refunds)}
    disputes = {one.reference: one for one in (*before.shown_disputes, *seen.disputes)}
    known = replace(before, shown_refunds=tuple(refunds.values()), shown_disputes=tuple(disputes.values()))
    paid_cents = arrived_cents(before.paid_cents, seen)
    return replace(after(known, apply_snapshot(known, seen)), paid_cents=paid_cents)


def balance(movements: tuple[Movement, ...]) -> int:
    taken = sum(m.amount_credits for m in movements if m.kind in TAKING)
    return sum(m.amount_credits for m in movements if m.kind not in TAKING) - taken


def test_a_paid_checkout_grants_the_pack_and_its_bonus_once() -> None:
    step = apply_snapshot(NEW, snapshot())
    assert step.status == "settled"
    assert step.movements == (Movement("purchase", "", 1000), Movement("bonus", "", 50))
    assert apply_snapshot(after(NEW, step), snapshot()).movements == ()


@pytest.mark.parametrize(("state", "status"), [("open", "pending"), ("expired", "expired"), ("failed", "failed")])
def test_an_unpaid_checkout_moves_no_credits(state: CheckoutState, status: PaymentStatus) -> None:
    step = apply_snapshot(NEW, snapshot(state))
    assert (step.status, step.movements) == (status, ())


def test_a_delayed_method_stays_pending_until_the_bank_answers() -> None:
    step = apply_snapshot(NEW, snapshot("processing"))
    assert (step.status, step.reason, step.movements) == ("pending", "processing", ())


def test_an_expired_payment_that_turns_out_paid_is_credited() -> None:
    assert apply_snapshot(replace(NEW, status="expired"), snapshot()).status == "settled"


def test_a_full_refund_takes_back_everything_bonus_included() -> None:
    settled = folded(NEW, snapshot())
    step = apply_snapshot(settled, snapshot(refunds=(ProviderRefund("re_1", 1000, "usd", "succeeded"),)))
    assert step.status == "refunded"
    assert balance((*settled.movements, *step.movements)) == 0


def test_partial_refunds_take_their_share_and_the_last_one_the_rest() -> None:
    state = folded(NEW, snapshot())
    first = (ProviderRefund("re_1", 333, "usd", "succeeded"),)
    state = folded(state, snapshot(refunds=first))
    assert balance(state.movements) == 1050 - 1050 * 333 // 1000
    state = folded(state, snapshot(refunds=(*first, ProviderRefund("re_2", 667, "usd", "succeeded"))))
    assert balance(state.movements) == 0


def test_a_refund_that_fails_later_gives_back_exactly_what_it_took() -> None:
    state = folded(NEW, snapshot())
    state = folded(state, snapshot(refunds=(ProviderRefund("re_1", 400, "usd", "pending"),)))
    step = apply_snapshot(state, snapshot(refunds=(ProviderRefund("re_1", 400, "usd", "failed"),)))
    assert step.status == "settled"
    assert balance((*state.movements, *step.movements)) == 1050


def test_a_dispute_takes_the_credits_and_winning_it_returns_them() -> None:
    state = folded(NEW, snapshot())
    opened = apply_snapshot(state, snapshot(disputes=(ProviderDispute("dp_1", 1000, "usd", "open"),)))
    assert opened.status == "disputed"
    state = after(state, opened)
    assert balance(state.movements) == 0
    won = apply_snapshot(state, snapshot(disputes=(ProviderDispute("dp_1", 1000, "usd", "won"),)))
    assert won.status == "settled"
    assert balance((*state.movements, *won.movements)) == 1050


def test_an_inquiry_moves_nothing() -> None:
    state = folded(NEW, snapshot())
    step = apply_snapshot(state, snapshot(disputes=(ProviderDispute("dp_1", 1000, "usd", "warning"),)))
    assert (step.status, step.movements) == ("settled", ())


def test_a_lost_dispute_seen_only_at_its_end_takes_the_credits() -> None:
    step = apply_snapshot(NEW, snapshot(disputes=(ProviderDispute("dp_1", 1000, "usd", "lost"),)))
    assert step.status == "dispute_lost"
    assert balance(step.movements) == 0


def test_a_refund_and_a_dispute_of_the_same_money_never_take_more_than_was_granted() -> None:
    seen = snapshot(
        refunds=(ProviderRefund("re_1", 1000, "usd", "succeeded"),),
        disputes=(ProviderDispute("dp_1", 1000, "usd", "lost"),),
    )
    step = apply_snapshot(NEW, seen)
    assert balance(step.movements) == 0


@pytest.mark.parametrize("mismatch", ["underpaid", "late", "amount_mismatch"])
def test_money_that_does_not_match_waits_for_a_person(mismatch: PaymentMismatch) -> None:
    step = apply_snapshot(NEW, snapshot(paid_cents=400, mismatch=mismatch))
    assert step.status == "review"
    assert step.review is not None
    assert step.review.code == mismatch
    assert (step.review.expected, step.review.found) == ("1000 cents usd", "400 cents usd")
    assert step.movements == ()


def test_less_money_than_the_price_is_never_credited_even_if_called_paid() -> None:
    assert apply_snapshot(NEW, snapshot(paid_cents=999)).status == "review"
    assert apply_snapshot(NEW, snapshot(currency="eur")).status == "review"


def test_more_than_a_smaller_invoice_asked_for_is_not_yet_the_price() -> None:
    for short in (snapshot(paid_cents=2, mismatch="overpaid"), snapshot(currency="eur", mismatch="overpaid")):
        step = apply_snapshot(NEW, short)
        assert (step.status, step.reason, step.movements) == ("review", "amount_mismatch", ())


def test_a_surplus_grants_the_pack_and_opens_a_review() -> None:
    step = apply_snapshot(NEW, snapshot(paid_cents=1500))
    assert step.status == "settled"
    assert step.review is not None
    assert step.review.code == "overpaid"


def test_a_provider_that_shows_less_later_undoes_nothing() -> None:
    settled = folded(NEW, snapshot())
    step = apply_snapshot(settled, snapshot("open"))
    assert (step.status, step.movements) == ("settled", ())


def test_a_provider_that_forgets_a_refund_does_not_give_the_credits_back() -> None:
    settled = folded(NEW, snapshot())
    refunded = folded(settled, snapshot(refunds=(ProviderRefund("re_1", 1000, "usd", "succeeded"),)))
    for state in ("paid", "open", "failed"):
        step = apply_snapshot(refunded, snapshot(state))
        assert (step.status, step.refunded_cents, step.movements) == ("refunded", 1000, ())
        assert step.review is not None
        assert step.review.code == ("missing_at_provider" if state == "paid" else "no_longer_paid")


@pytest.mark.parametrize(("shown", "state"), [(400, "paid"), (0, "paid"), (400, "failed"), (0, "expired")])
def test_a_refund_takes_its_share_of_all_the_money_that_has_arrived(shown: int, state: CheckoutState) -> None:
    """Also where the provider shows less of it now."""
    payment = folded(NEW, snapshot())
    seen = snapshot(state, paid_cents=shown, refunds=(ProviderRefund("re_1", 300, "usd", "succeeded"),))
    payment = folded(payment, seen)
    assert (payment.status, balance(payment.movements)) == ("partially_refunded", 1050 - 1050 * 300 // 1000)


def test_a_refund_after_a_forgotten_one_takes_its_own_share() -> None:
    forgotten, later = (ProviderRefund(f"re_{n}", 300, "usd", "succeeded") for n in (1, 2))
    state = folded(folded(NEW, snapshot()), snapshot(refunds=(forgotten,)))
    for refunds in ((later,), (later, forgotten), (forgotten,)):
        state = folded(state, snapshot(refunds=refunds))
        assert (state.status, state.refunded_cents) == ("partially_refunded", 600)
        assert balance(state.movements) == 1050 - 1050 * 600 // 1000
    failed = replace(forgotten, state="failed")
    state = folded(state, snapshot(refunds=(failed,)))
    assert (state.refunded_cents, balance(state.movements)) == (300, 1050 - 1050 * 300 // 1000)


def test_a_refund_after_a_forgotten_dispute_takes_its_own_share() -> None:
    disputed = snapshot(disputes=(ProviderDispute("dp_1", 300, "usd", "lost"),))
    refunded = snapshot(refunds=(ProviderRefund("re_1", 300, "usd", "succeeded"),))
    state = folded(folded(folded(NEW, snapshot()), disputed), refunded)
    assert (state.status, state.refunded_cents) == ("dispute_lost", 300)
    assert balance(state.movements) == 1050 - 1050 * 600 // 1000


def test_what_a_failed_refund_gives_back_an_open_dispute_takes_again() -> None:
    state = folded(NEW, snapshot())
    pending, failed = ProviderRefund("re_1", 500, "usd", "pending"), ProviderRefund("re_1", 500, "usd", "failed")
    opened, lost = ProviderDispute("dp_1", 1000, "usd", "open"), ProviderDispute("dp_1", 1000, "usd", "lost")
    for refund, disputes, left in (
        (pending, (), 525),
        (pending, (opened,), 0),
        (failed, (opened,), 0),
        (failed, (lost,), 0),
    ):
        state = folded(state, snapshot(refunds=(refund,), disputes=disputes))
        assert balance(state.movements) == left
    assert state.status == "dispute_lost"


def test_a_dispute_that_is_lost_after_all_takes_again_what_winning_had_returned() -> None:
    state = folded(NEW, snapshot())
    ends: list[tuple[DisputeState, int]] = [("open", 0), ("won", 1050), ("lost", 0), ("won", 1050), ("lost", 0)]
    for dispute, left in ends:
        state = folded(state, snapshot(disputes=(ProviderDispute("dp_1", 1000, "usd", dispute),)))
        assert balance(state.movements) == left


def test_returning_a_surplus_costs_no_credits_and_going_below_the_price_does() -> None:
    state = folded(NEW, snapshot(paid_cents=1500))
    for cents, status, left in ((500, "settled", 1050), (1000, "partially_refunded", 525), (1500, "refunded", 0)):
        seen = snapshot(paid_cents=1500, refunds=(ProviderRefund("re_1", cents, "usd", "succeeded"),))
        state = folded(state, seen)
        assert (state.status, state.refunded_cents, balance(state.movements)) == (status, cents, left)


def test_money_that_comes_again_after_a_refund_brings_the_credits_back() -> None:
    state = folded(NEW, snapshot())
    refund = (ProviderRefund("re_1", 1000, "usd", "succeeded"),)
    state = folded(state, snapshot(refunds=refund))
    assert balance(state.movements) == 0
    state = folded(state, snapshot(paid_cents=2000, refunds=refund))
    assert (state.status, balance(state.movements)) == ("settled", 1050)


@pytest.mark.parametrize("resolution", [None, "credited"])
def test_credited_money_of_which_less_is_shown_is_put_before_a_person(resolution: Resolution | None) -> None:
    state: CheckoutState = "paid" if resolution is None else "expired"
    granted = (Movement("purchase", "", 1000), Movement("bonus", "", 50))
    credited = replace(NEW, status="settled", resolution=resolution, movements=granted, paid_cents=1400)
    for shown in (1400, 1000):
        review = apply_snapshot(credited, snapshot(state, paid_cents=shown)).review
        assert review is None or review.code == "overpaid"
    step = apply_snapshot(credited, snapshot(state, paid_cents=999))
    assert step.review == Review("no_longer_paid", "1000 cents usd", "999 cents usd")
    assert (step.status, step.movements) == ("settled", ())
    more_comes = apply_snapshot(replace(credited, resolution="credited"), snapshot("processing", paid_cents=0))
    assert more_comes.review is None


def test_money_that_is_on_its_way_brings_no_credits_back() -> None:
    """An unconfirmed coin payment may never arrive."""
    refund = (ProviderRefund("re_1", 1000, "usd", "succeeded"),)
    state = folded(folded(NEW, snapshot()), snapshot(refunds=refund))
    state = folded(state, snapshot("processing", paid_cents=2000, refunds=refund))
    assert (state.status, balance(state.movements)) == ("refunded", 0)
    assert folded(state, snapshot(paid_cents=2000, refunds=refund)).status == "settled"


@pytest.mark.parametrize("state", ["paid", "expired"])
def test_what_a_person_credited_goes_back_with_the_money_that_was_there(state: CheckoutState) -> None:
    granted = (Movement("purchase", "", 1000), Movement("bonus", "", 50))
    credited = replace(NEW, status="settled", resolution="credited", movements=granted)
    short: Seen = {"paid_cents": 800, "mismatch": "underpaid"}
    assert apply_snapshot(credited, snapshot(state, **short)).movements == ()
    for cents, status, left in ((400, "partially_refunded", 525), (800, "refunded", 0)):
        refund = (ProviderRefund("re_1", cents, "usd", "succeeded"),)
        step = apply_snapshot(credited, replace(snapshot(state, **short), refunds=refund))
        assert (step.status, balance((*granted, *step.movements))) == (status, left)


def test_dismissed_money_is_reviewed_again_when_something_else_is_found() -> None:
    decided: frozenset[tuple[PaymentReviewCode, str]] = frozenset({("underpaid", "400 cents usd")})
    dismissed = replace(NEW, status="failed", resolution="dismissed", decided=decided)
    same = apply_snapshot(dismissed, snapshot("expired", paid_cents=400, mismatch="underpaid"))
    assert (same.status, same.review, same.movements) == ("failed", None, ())
    more = apply_snapshot(dismissed, snapshot("expired", paid_cents=700, mismatch="underpaid"))
    assert (more.status, more.review and more.review.found) == ("review", "700 cents usd")
    all_of_it = apply_snapshot(dismissed, snapshot())
    assert (all_of_it.status, all_of_it.review and all_of_it.review.code) == ("review", "paid_after_dismissal")
    also: tuple[PaymentReviewCode, str] = ("paid_after_dismissal", "1000 cents usd")
    again = replace(NEW, resolution="dismissed", decided=decided | {also})
    assert apply_snapshot(again, snapshot()).status == "failed"


EVENTS: dict[str, Seen] = {
    "paid": {},
    "refund made": {"refunds": (ProviderRefund("re_1", 250, "usd", "pending"),)},
    "refund failed": {"refunds": (ProviderRefund("re_1", 250, "usd", "failed"),)},
    "dispute": {
        "refunds": (ProviderRefund("re_1", 250, "usd", "failed"),),
        "disputes": (ProviderDispute("dp_1", 1000, "usd", "open"),),
    },
}


@pytest.mark.parametrize("order", list(permutations(EVENTS)))
def test_snapshots_in_any_order_end_like_the_last_one_alone(order: tuple[str, ...]) -> None:
    final: Seen = {**EVENTS["dispute"], "disputes": (ProviderDispute("dp_1", 1000, "usd", "won"),)}
    state = NEW
    for name in order:
        state = folded(state, snapshot(**EVENTS[name]))
    state = folded(state, snapshot(**final))
    alone = folded(NEW, snapshot(**final))
    assert state.status == alone.status == "settled"
    assert balance(state.movements) == balance(alone.movements) == 1050


REFUND_STATES: list[RefundState] = ["pending", "succeeded", "failed"]
DISPUTE_STATES: list[DisputeState] = ["warning", "open", "won", "lost"]


@given(
    snapshots=st.lists(
        st.tuples(
            st.lists(
                st.tuples(st.integers(1, 4000), st.sampled_from(REFUND_STATES)),
                min_size=3,
                max_size=3,
            ),
            st.lists(
                st.tuples(st.integers(1, 4000), st.sampled_from(DISPUTE_STATES)),
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
def test_the_credits_that_are_gone_are_worth_the_lost_money(
    snapshots: list[tuple[list[tuple[int, RefundState]], list[tuple[int, DisputeState]], int]],
    price: int,
    credits: int,
    bonus: int,
) -> None:
    state = replace(NEW, price_cents=price, credits=credits, bonus_credits=bonus)
    surplus = 0
    for refunds, disputes, shown in snapshots:
        surplus = max(surplus, shown)
        seen = snapshot(
            paid_cents=price + shown,
            refunds=tuple(ProviderRefund(f"re_{n}", one[0], "usd", one[1]) for n, one in enumerate(refunds)),
            disputes=tuple(ProviderDispute(f"dp_{n}", one[0], "usd", one[1]) for n, one in enumerate(disputes)),
        )
        state = folded(state, seen)
        gone = sum(cents for cents, said in refunds if said != "failed")
        gone += sum(cents for cents, said in disputes if said in ("open", "lost"))
        lost = min(price, max(0, gone - surplus))
        assert balance(state.movements) == credits + bonus - (credits + bonus) * lost // price
        assert apply_snapshot(state, seen).movements == ()
        assert all(movement.amount_credits > 0 for movement in state.movements)
        identities = [(movement.kind, movement.reference) for movement in state.movements]
        assert len(identities) == len(set(identities))


@given(
    snapshots=st.lists(
        st.tuples(
            st.lists(
                st.none() | st.tuples(st.integers(1, 4000), st.sampled_from(REFUND_STATES)), min_size=3, max_size=3
            ),
            st.none() | st.tuples(st.integers(1, 4000), st.sampled_from(DISPUTE_STATES)),
        ),
        min_size=2,
        max_size=6,
    ),
    price=st.integers(1, 5000),
    credits=st.integers(1, 5000),
)
def test_what_took_credits_counts_until_the_provider_shows_that_it_failed(
    snapshots: list[tuple[list[tuple[int, RefundState] | None], tuple[int, DisputeState] | None]],
    price: int,
    credits: int,
) -> None:
    state = folded(replace(NEW, price_cents=price, credits=credits), snapshot(paid_cents=price))
    money: dict[str, tuple[int, bool]] = {}
    for refunds, dispute in snapshots:
        shown = {f"re_{n}": one for n, one in enumerate(refunds) if one is not None}
        seen = snapshot(
            paid_cents=price,
            refunds=tuple(ProviderRefund(reference, one[0], "usd", one[1]) for reference, one in shown.items()),
            disputes=() if dispute is None else (ProviderDispute("dp_1", dispute[0], "usd", dispute[1]),),
        )
        took = {movement.reference.partition("#")[0] for movement in state.movements}
        money = {reference: one for reference, one in money.items() if reference in took}
        money |= {reference: (one[0], one[1] != "failed") for reference, one in shown.items()}
        if dispute is not None:
            money["dp_1"] = (dispute[0], dispute[1] in ("open", "lost"))
        state = folded(state, seen)
        lost = min(price, sum(cents for cents, is_gone in money.values() if is_gone))
        assert balance(state.movements) == credits + 50 - (credits + 50) * lost // price


def test_a_refund_in_the_accepted_currency_takes_its_share_of_that_money() -> None:
    granted = (Movement("purchase", "", 1000), Movement("bonus", "", 50))
    accepted = replace(NEW, status="settled", resolution="credited", movements=granted)
    half = (ProviderRefund("re_1", 450, "eur", "succeeded"),)
    step = apply_snapshot(accepted, snapshot(paid_cents=900, currency="eur", refunds=half))
    assert step.status == "partially_refunded"
    assert step.movements == (Movement("refund", "re_1", 525),)


def test_a_refund_of_accepted_money_takes_its_share_of_all_that_has_arrived() -> None:
    granted = (Movement("purchase", "", 1000), Movement("bonus", "", 50))
    accepted = replace(NEW, status="settled", resolution="credited", movements=granted)
    tenth = (ProviderRefund("re_1", 15_000, "jpy", "succeeded"),)
    step = apply_snapshot(accepted, snapshot(paid_cents=150_000, currency="jpy", refunds=tenth))
    assert step.movements == (Movement("refund", "re_1", 105),)


def test_each_refund_and_dispute_takes_and_returns_under_its_own_name() -> None:
    refunds = tuple(ProviderRefund(f"re_{n}", 333, "usd", "succeeded") for n in (2, 1))
    dispute = ProviderDispute("dp_1", 334, "usd", "open")
    state = folded(NEW, snapshot())
    taking = snapshot(refunds=refunds, disputes=(dispute,))
    assert apply_snapshot(state, taking).movements == (
        Movement("dispute", "dp_1", 350),
        Movement("refund", "re_1", 349),
        Movement("refund", "re_2", 351),
    )
    state = folded(state, taking)
    failed = tuple(replace(one, state="failed") for one in refunds)
    back = apply_snapshot(state, snapshot(refunds=failed, disputes=(replace(dispute, state="won"),)))
    assert back.movements == (
        Movement("refund_failed", "re_1", 349),
        Movement("refund_failed", "re_2", 351),
        Movement("dispute_won", "dp_1", 350),
    )


def test_a_payment_that_a_person_credited_does_not_count_as_credited_because_paid() -> None:
    settled = folded(NEW, snapshot())
    assert settled.credited_as_paid
    assert not replace(settled, resolution="credited").credited_as_paid
    assert not NEW.credited_as_paid


def test_what_is_taken_in_another_currency_is_a_persons_decision() -> None:
    settled = folded(NEW, snapshot())
    taken = (ProviderRefund("re_1", 900, "eur", "succeeded"),)
    step = apply_snapshot(settled, snapshot(refunds=taken))
    assert (step.status, step.movements, step.refunded_cents) == ("settled", (), 0)
    assert step.review is not None
    assert (step.review.code, step.review.found) == ("taken_in_another_currency", "re_1: 900 cents eur")
    ours = ProviderRefund("re_2", 500, "usd", "succeeded")
    disputed = apply_snapshot(
        settled, snapshot(refunds=(ours,), disputes=(ProviderDispute("dp_1", 900, "eur", "open"),))
    )
    assert disputed.movements == (Movement("refund", "re_2", 525),)
    assert disputed.review is not None
    assert disputed.review.found == "dp_1: 900 cents eur"


def test_a_checkout_that_a_coupon_paid_is_a_persons_decision() -> None:
    step = apply_snapshot(NEW, snapshot(paid_cents=0))
    assert (step.status, step.movements) == ("review", ())
    assert step.review is not None
    assert step.review.code == "amount_mismatch"
