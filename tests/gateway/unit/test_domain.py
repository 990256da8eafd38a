"""Cursors, request hashes, and what a spreadsheet makes of a note."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest

from gateway.domain import (
    Cursor,
    OrderRequest,
    PurchaseRequest,
    decode_cursor,
    download_name,
    encode_cursor,
    is_confirmed,
    is_storable,
    lane_of,
    request_hash,
    split_page,
)
from gateway.routes.account import _cell


def _of(at: datetime) -> str:
    return encode_cursor(Cursor(at, UUID(int=7)))


def test_a_cursor_round_trips() -> None:
    cursor = Cursor(datetime.now(UTC), uuid4())
    assert decode_cursor(encode_cursor(cursor)) == cursor


NO_ZONE = datetime(2026, 1, 1)  # noqa: DTZ001 - that it has none is the point
BEFORE_TIME = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))


@pytest.mark.parametrize("text", ["", "x", "é", "bm9wZQ", *(_of(at) for at in (NO_ZONE, BEFORE_TIME))])
def test_an_invented_cursor_is_none(text: str) -> None:
    assert decode_cursor(text) is None


def test_the_order_of_keys_does_not_change_a_request() -> None:
    assert request_hash({"a": 1, "b": {"c": 2, "d": 3}}) == request_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert request_hash({"a": 1}) != request_hash({"a": "1"})


@pytest.mark.parametrize("value", ["a\0", "\ud800", float("nan"), float("inf"), [], {"a": 1}])
def test_values_that_the_database_cannot_hold_are_recognised(value: object) -> None:
    assert not is_storable(value)


@pytest.mark.parametrize("value", ["", "😀 é", 1, 1.5, None, True])
def test_other_scalars_are_storable(value: object) -> None:
    assert is_storable(value)


@pytest.mark.parametrize("note", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "  =1", "＝1"])
def test_a_note_is_never_a_formula(note: str) -> None:
    assert _cell(note) == f"'{note}"


def test_numbers_and_plain_notes_stay_as_they_are() -> None:
    assert [_cell(value) for value in (-5, "thanks", None, "a=b")] == [-5, "thanks", "", "a=b"]


def test_requests_with_other_content_have_other_digests() -> None:
    order = OrderRequest("flux-schnell", {"prompt": "a kite", "seed": 7}, None)
    assert order.digest == OrderRequest("flux-schnell", {"seed": 7, "prompt": "a kite"}, None).digest
    others = (
        OrderRequest("z-image-turbo", order.parameters, None),
        OrderRequest("flux-schnell", {"prompt": "a kite", "seed": 8}, None),
        OrderRequest("flux-schnell", order.parameters, 5),
        OrderRequest("flux-schnell", order.parameters, None, count=2),
    )
    assert len({order.digest, *(other.digest for other in others)}) == 5
    purchases = (
        PurchaseRequest("small", "stripe"),
        PurchaseRequest("large", "stripe"),
        PurchaseRequest("small", "btcpay"),
    )
    assert len({purchase.digest for purchase in purchases}) == 3


@pytest.mark.parametrize(
    ("token_claims", "lane"),
    [
        ({"app_metadata": {"plan": "pro"}}, "pro"),
        ({"app_metadata": {"plan": "standard"}}, "standard"),
        ({"app_metadata": {"plan": "gold"}}, "free"),
        ({"app_metadata": {"plan": 1}}, "free"),
        ({"app_metadata": {}}, "free"),
        ({"app_metadata": "pro"}, "free"),
        ({}, "free"),
    ],
)
def test_only_a_known_plan_in_the_token_gives_a_better_lane(token_claims: dict[str, object], lane: str) -> None:
    assert lane_of(token_claims) == lane


@pytest.mark.parametrize(
    ("token_claims", "confirmed"),
    [
        ({}, True),
        ({"email_verified": True, "user_metadata": {"email_verified": True}}, True),
        ({"user_metadata": "of no known shape"}, True),
        ({"is_anonymous": False}, True),
        ({"is_anonymous": True}, False),
        ({"email_verified": False}, False),
        ({"user_metadata": {"email_verified": False}}, False),
        # Users write their metadata themselves: what it says cannot outweigh the other claim.
        ({"email_verified": False, "user_metadata": {"email_verified": True}}, False),
        ({"user_metadata": {"email_verified": "yes"}}, False),
    ],
)
def test_a_user_counts_as_confirmed_unless_a_claim_denies_it(token_claims: dict[str, object], confirmed: bool) -> None:
    assert is_confirmed(token_claims) == confirmed


def test_a_page_names_the_next_one_only_if_there_is_one() -> None:
    cursors = [Cursor(datetime(2026, 1, day, tzinfo=UTC), UUID(int=day)) for day in (3, 2, 1)]
    page, following = split_page(cursors, 2, lambda cursor: cursor)
    assert page == cursors[:2]
    assert following is not None
    assert decode_cursor(following) == cursors[1]
    assert split_page(cursors, 3, lambda cursor: cursor) == (cursors, None)
    assert split_page([], 3, lambda cursor: cursor) == ([], None)


def test_a_file_is_saved_under_a_safe_and_sortable_name() -> None:
    at = datetime(2026, 11, 23, 1, 28, 13, tzinfo=timezone(timedelta(hours=2)))
    assert download_name("wan-2.2-t2v", at, UUID(int=0x3C4D5E)) == "wan-2.2-t2v-20261122-232813-3c4d5e"
    assert download_name('é"/\r\n', at, UUID(int=7)).startswith("_____-2026")
