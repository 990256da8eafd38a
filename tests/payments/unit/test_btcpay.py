"""What BTCPay Server's statuses mean for a payment, and what its coins are worth."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from contracts.payments import PaymentMismatch
from payments.domain.snapshots import CheckoutState, ProviderEvent
from payments.errors import InvalidWebhookSignature
from payments.providers.btcpay import BtcPay, _Invoice


def invoice(status: str, additional: str = "None") -> dict[str, Any]:
    """An invoice over $25."""
    return {
        "id": "inv_1",
        "amount": "25.00",
        "currency": "USD",
        "status": status,
        "additionalStatus": additional,
        "metadata": {},
    }


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BtcPay]:
    """An adapter whose server says that 0.0004 bitcoin at 50,000 and 0.0001 by Lightning arrived: $25.00."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path.endswith("/invoices/inv_1/payment-methods")
        methods = [{"paymentMethodPaid": "0.0004", "rate": "50000"}, {"paymentMethodPaid": "0.0001", "rate": "50000"}]
        return httpx.Response(200, json=methods)

    adapter = BtcPay("http://unused", "key", "store", ("secret",), "done")
    await adapter.close()
    client = httpx.AsyncClient(base_url="http://unused", transport=httpx.MockTransport(answer))
    monkeypatch.setattr(adapter, "_client", client)
    yield adapter
    await adapter.close()


@pytest.mark.parametrize(
    ("status", "additional", "state", "paid_cents", "mismatch"),
    [
        ("New", "None", "open", 0, None),
        ("Processing", "None", "processing", 2500, None),
        ("Settled", "None", "paid", 2500, None),
        ("Settled", "PaidOver", "paid", 2500, "overpaid"),
        ("Expired", "None", "expired", 0, None),
        ("Expired", "PaidPartial", "expired", 2500, "underpaid"),
        ("Expired", "PaidLate", "expired", 2500, "late"),
        ("Invalid", "None", "failed", 0, None),
        ("AStatusToCome", "None", "processing", 0, None),
    ],
)
async def test_only_settled_is_paid_and_what_came_is_counted_by_method(
    provider: BtcPay,
    status: str,
    additional: str,
    state: CheckoutState,
    paid_cents: int,
    mismatch: PaymentMismatch | None,
) -> None:
    seen = await provider._snapshot(msgspec.convert(invoice(status, additional), _Invoice))
    assert (seen.state, seen.paid_cents, seen.currency, seen.mismatch) == (state, paid_cents, "usd", mismatch)


async def test_a_signature_of_another_secret_is_refused(provider: BtcPay) -> None:
    with pytest.raises(InvalidWebhookSignature):
        provider.prove_webhook({"btcpay-sig": "sha256=00"}, b"{}")


@pytest.mark.parametrize("reference", ["", ".", "../../../users/me", "inv?x=", None])
async def test_a_name_that_is_no_invoices_leads_to_no_other_address(provider: BtcPay, reference: str | None) -> None:
    event = ProviderEvent("delivery", "InvoiceSettled", None, reference, b"")
    assert await provider.find_payment(event) is None
