"""Cursors, request hashes, return addresses, and numbers, moments and days as people write them."""

from collections.abc import Callable
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
    origin_of,
    request_hash,
    split_page,
    with_payment,
    written_day,
    written_moment,
    written_number,
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
        OrderRequest("flux-schnell", order.parameters, None, start_within_seconds=2),
    )
    assert len({order.digest, *(other.digest for other in others)}) == 6
    purchases = (
        PurchaseRequest("small", "stripe"),
        PurchaseRequest("large", "stripe"),
        PurchaseRequest("small", "btcpay"),
        PurchaseRequest("small", "stripe", "https://app.example.com/credits"),
    )
    assert len({purchase.digest for purchase in purchases}) == 4


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


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://app.example.com/credits?from=menu#top", "https://app.example.com"),
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com:443/", "https://app.example.com"),
        ("http://app.example.com:80/", "http://app.example.com"),
        ("https://app.example.com:80/", "https://app.example.com:80"),
        ("http://localhost:5173/credits", "http://localhost:5173"),
    ],
)
def test_an_address_has_the_origin_that_a_browser_sends(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/credits",
        "app.example.com/credits",
        "https:///credits",
        "javascript:alert(1)",
        "ftp://app.example.com/",
        # A reader takes the first for the host, and a browser the second.
        "https://app.example.com@evil.example.com/",
        "https://app.example.com:port/",
        "https://app.example.com:99999/",
        "https://[app.example.com/",
        "https://app.example.com/\x00",
        "https://app.example.com/\u202e",
    ],
)
def test_what_is_no_address_of_a_page_has_no_origin(url: str) -> None:
    assert origin_of(url) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://app.example.com", "https://app.example.com?payment_id={}"),
        (
            "https://app.example.com/credits?from=menu#top",
            "https://app.example.com/credits?from=menu&payment_id={}#top",
        ),
        # The page that an earlier checkout came back to.
        (
            "https://app.example.com/credits?payment_id=1&old_payment_id=2",
            "https://app.example.com/credits?old_payment_id=2&payment_id={}",
        ),
    ],
)
def test_the_payments_id_stands_in_the_query_once_beside_the_rest(url: str, expected: str) -> None:
    payment_id = uuid4()
    assert with_payment(url, payment_id) == expected.format(payment_id)


WRITTEN_WELL = [
    *((written_number, text) for text in ("0", "007", str(2**63 - 1))),
    *(
        (written_moment, text)
        for text in ("2026-11-23T09:30Z", "2026-11-23 09:30:00.123456+02:00", "2026-11-23t09:30:00-0330")
    ),
    (written_day, "2026-11-23"),
]


@pytest.mark.parametrize(("check", "text"), WRITTEN_WELL)
def test_numbers_moments_and_days_as_people_write_them_are_taken(check: Callable[[object], object], text: str) -> None:
    assert check(text) == text


WRITTEN_BADLY = [
    *((written_number, text) for text in ("", "1_0", "+1", "-1", " 1", "1\n", "1.0", "\u0661", "1" * 20)),
    *(
        (written_moment, text)
        for text in (
            "",
            "0.5",
            "1795599000",
            "2026-11-23",
            "2026-11-23T09:30:00",
            "2026-11-23T09:30:00." + 30 * "1" + "Z",
        )
    ),
    *((written_day, text) for text in ("", "20261123", "1795599000", "1026-11-23", "2026-11-23T00:00", "2026-11-23\n")),
]


@pytest.mark.parametrize(("check", "text"), WRITTEN_BADLY)
def test_other_ways_of_writing_them_are_refused(check: Callable[[object], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a (number|moment|day) "):
        check(text)


@pytest.mark.parametrize("check", [written_number, written_moment, written_day])
def test_a_value_that_is_no_text_is_left_to_the_next_check(check: Callable[[object], object]) -> None:
    assert check(7) == 7
    assert check(None) is None
