"""What NOWPayments' coin payments are worth: "finished" does not say that it was enough."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from payments.domain.snapshots import LARGEST_CENTS, ProviderDispute, ProviderRefund, Snapshot
from payments.errors import InvalidWebhookSignature
from payments.providers import nowpayments
from payments.providers.nowpayments import NowPayments, _Coin, _snapshot


def coin(number: int, status: str, share: float, **more: Any) -> dict[str, Any]:
    """A coin payment of an invoice over $10, of which ``share`` arrived."""
    return {
        "payment_id": number,
        "payment_status": status,
        "price_amount": 10,
        "price_currency": "usd",
        "pay_amount": 2,
        "actually_paid": 2 * share,
        "order_id": None,
        "invoice_id": None,
        **more,
    }


@pytest.mark.parametrize(
    ("coins", "state", "paid_cents", "mismatch"),
    [
        ([("finished", 1.0)], "paid", 1000, None),
        ([("finished", 0.995)], "paid", 1000, None),
        ([("finished", 1.005)], "paid", 1000, None),
        ([("finished", 0.98)], "paid", 980, "underpaid"),
        ([("finished", 0.01)], "paid", 10, "underpaid"),
        ([("finished", 1.5)], "paid", 1500, None),
        ([("finished", 1.0), ("finished", 1.0)], "paid", 2000, None),
        ([("partially_paid", 0.4)], "expired", 400, "underpaid"),
        ([("partially_paid", 0.4), ("finished", 0.6)], "paid", 1000, None),
        ([("partially_paid", 0.4), ("partially_paid", 0.6)], "paid", 1000, None),
        ([("partially_paid", 0.4), ("partially_paid", 0.5)], "expired", 900, "underpaid"),
        ([("partially_paid", 0.4), ("confirming", 0.6)], "processing", 0, None),
        ([("refunded", 1.0)], "paid", 1000, None),
        ([("refunded", 0.3)], "failed", 300, None),
        ([("finished", 1.0), ("refunded", 1.0)], "paid", 2000, None),
        ([("confirming", 1.0)], "processing", 0, None),
        ([("waiting", 0.0)], "open", 0, None),
        ([("expired", 0.0)], "expired", 0, None),
    ],
)
def test_what_arrived_counts_and_not_what_it_is_called(
    coins: list[tuple[str, float]], state: str, paid_cents: int, mismatch: str | None
) -> None:
    listed = msgspec.convert([coin(number, *one) for number, one in enumerate(coins)], list[_Coin])
    found = _snapshot("1", "usd", listed)
    assert (found.state, found.paid_cents, found.mismatch) == (state, paid_cents, mismatch)
    refunded = [round(share * 1000) for status, share in coins if status == "refunded"]
    assert [refund.amount_cents for refund in found.refunds] == refunded


def seen(*coins: dict[str, Any]) -> Snapshot:
    return _snapshot("1", "usd", msgspec.convert(list(coins), list[_Coin]))


def test_a_coin_payment_without_its_amounts_does_not_block_a_paid_one() -> None:
    unknown = coin(2, "finished", 1.0, actually_paid=None)
    assert (seen(coin(1, "finished", 1.0), unknown).state, seen(unknown).mismatch) == ("paid", "underpaid")
    assert seen(coin(1, "waiting", 0.0, actually_paid=None)).state == "open"


def test_a_deposit_priced_in_another_currency_is_not_believed() -> None:
    found = seen(coin(1, "finished", 1.0, price_currency="eur"))
    assert (found.paid_cents, found.mismatch) == (0, "underpaid")


def test_a_later_deposit_counts_if_it_is_in_the_coin_that_was_asked_for() -> None:
    first = coin(1, "partially_paid", 0.4, pay_currency="btc")
    later = {"order_id": None, "parent_payment_id": 1}
    assert seen(first, coin(2, "finished", 0.6, pay_currency="btc", **later)).paid_cents == 1000
    found = seen(first, coin(2, "finished", 0.6, pay_currency="doge", **later))
    assert (found.paid_cents, found.mismatch) == (400, "underpaid")


async def test_deposits_without_an_order_are_each_a_payment_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = NowPayments("http://unused", "key", ("secret",), "e", "p", "callback", "done")

    async def listed(_: Any) -> Any:
        yield coin(1, "finished", 1.0)
        yield coin(2, "finished", 0.2, parent_payment_id=1)

    monkeypatch.setattr(provider, "_list", listed)
    found = [(payment, snapshot) async for payment, snapshot in provider.recent_payments(datetime.now(UTC)) if snapshot]
    assert [(payment, snapshot.reference, snapshot.paid_cents) for payment, snapshot in found] == [
        (None, "1", 1000),
        (None, "2", 200),
    ]
    await provider.close()


async def test_a_payment_is_compared_under_its_invoice_in_whatever_order_it_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = NowPayments("http://unused", "key", ("secret",), "e", "p", "callback", "done")

    async def listed(_: Any) -> Any:
        yield coin(2, "finished", 0.6, parent_payment_id=1)
        yield coin(1, "partially_paid", 0.4, order_id=str(uuid4()), invoice_id=77)

    monkeypatch.setattr(provider, "_list", listed)
    found = [snapshot async for _, snapshot in provider.recent_payments(datetime.now(UTC)) if snapshot]
    assert [(snapshot.reference, snapshot.paid_cents) for snapshot in found] == [("77", 1000)]
    await provider.close()


async def test_a_coin_payment_that_moves_to_a_later_page_counts_once() -> None:
    newest_first = [coin(number, "waiting", 0.0) for number in range(99, 0, -1)] + [coin(0, "partially_paid", 0.5)]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/auth":
            return httpx.Response(200, json={"token": "t"})
        page = int(request.url.params["page"])
        listed = newest_first[100 * page : 100 * page + 100]
        newest_first.insert(0, coin(100 + page, "waiting", 0.0))
        return httpx.Response(200, json={"data": listed, "pagesCount": 2})

    provider = NowPayments("http://unused", "key", ("secret",), "e", "p", "callback", "done")
    await provider.close()
    provider._client = httpx.AsyncClient(base_url="http://unused", transport=httpx.MockTransport(answer))
    listed = [listed["payment_id"] async for listed in provider._list({})]
    await provider.close()
    assert sorted(listed) == list(range(100))


@pytest.mark.parametrize("signature", ["", "00", "g" * 128, "0" * 129, "\u0661" * 128])
def test_without_a_signature_nothing_is_parsed(monkeypatch: pytest.MonkeyPatch, signature: str) -> None:
    def parse(_: bytes) -> bytes:
        raise AssertionError("the body was parsed")

    monkeypatch.setattr(nowpayments, "_canonical", parse)
    provider = NowPayments.__new__(NowPayments)
    with pytest.raises(InvalidWebhookSignature):
        provider.prove_webhook({"x-nowpayments-sig": signature}, b"{}")


@pytest.mark.parametrize("cents", [-1, LARGEST_CENTS + 1, 2**63 - 1])
def test_an_amount_that_nobody_can_have_paid_is_not_believed(cents: int) -> None:
    for state in (
        lambda: Snapshot("1", "paid", cents, "usd"),
        lambda: ProviderRefund("1", cents, "usd", "succeeded"),
        lambda: ProviderDispute("1", cents, "usd", "lost"),
    ):
        with pytest.raises(ValueError, match="nobody can have paid"):
            state()
