"""A BTCPay Server with one store: Greenfield invoices, a checkout page and signed, redelivered webhooks."""

import hashlib
import hmac
import html
import json
import secrets
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from local_platform.payment_providers.emulation import Account, Emulation
from local_platform.payment_providers.webhooks import Delivery, WebhookSender, closing

RETRY_DELAYS_SECONDS = (1.0, 5.0, 10.0, 30.0)
RATE = Decimal(50_000)
"""Price of one emulated bitcoin, in the currency of each invoice."""

ADDITIONAL = {"partial": "PaidPartial", "late": "PaidLate", "over": "PaidOver"}


class BtcPayEmulator:
    """Invoices by id. What the chain does is said over ``/admin/invoices/{id}/{act}``."""

    def __init__(self, account: Account) -> None:
        self.sender = WebhookSender(RETRY_DELAYS_SECONDS)
        self.invoices: dict[str, dict[str, Any]] = {}
        self.paid: dict[str, Decimal] = {}
        self.failures = 0
        self.account = account
        self._store = f"/api/v1/stores/{account.name}"

    def app(self) -> Starlette:
        """The Greenfield routes, the checkout page, and the emulator's own switches."""
        return Starlette(
            routes=[
                Route(f"{self._store}/invoices", self._create, methods=["POST"]),
                Route(f"{self._store}/invoices", self._list, methods=["GET"]),
                Route(f"{self._store}/invoices/{{id}}", self._get, methods=["GET"]),
                Route(f"{self._store}/invoices/{{id}}/payment-methods", self._methods, methods=["GET"]),
                Route("/i/{id}", self._page, methods=["GET"]),
                Route("/i/{id}", self._pay_form, methods=["POST"]),
                Route("/admin/invoices/{id}/{act}", self._act, methods=["POST"]),
                Route("/admin/misbehaviour", self.sender.misbehave, methods=["PUT"]),
                Route("/admin/failures", self._fail_next, methods=["POST"]),
            ],
            lifespan=closing(self.sender),
        )

    def pay_in_full(self, reference: str) -> None:
        """The whole price arrives and is confirmed."""
        invoice = self.invoices[reference]
        self.paid[reference] = Decimal(invoice["amount"]) / RATE
        self._change(invoice, "Processing", "None", "InvoiceProcessing")
        self._change(invoice, "Settled", "None", "InvoiceSettled")

    def _change(self, invoice: dict[str, Any], status: str, additional: str, event_type: str) -> None:
        invoice |= {"status": status, "additionalStatus": additional}
        delivery_id = secrets.token_urlsafe(16)
        body = {
            "deliveryId": delivery_id,
            "webhookId": "emulated",
            "originalDeliveryId": delivery_id,
            "isRedelivery": False,
            "type": event_type,
            "timestamp": int(time.time()),
            "storeId": self.account.name,
            "invoiceId": invoice["id"],
            "metadata": invoice["metadata"],
        }
        self.sender.send(Delivery(self.account.webhook_url, json.dumps(body).encode(), self._sign))

    def _sign(self, body: bytes) -> dict[str, str]:
        return {
            "btcpay-sig": f"sha256={hmac.new(self.account.webhook_secret.encode(), body, hashlib.sha256).hexdigest()}"
        }

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("authorization") != f"token {self.account.api_key}":
            return JSONResponse({"code": "unauthenticated", "message": "Authentication is required"}, 401)
        if self.failures > 0:
            self.failures -= 1
            return JSONResponse({"code": "injected", "message": "injected by the emulator"}, 503)
        return None

    async def _create(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        wanted = await request.json()
        identity = secrets.token_urlsafe(16)
        minutes = int(wanted.get("checkout", {}).get("expirationMinutes", 15))
        self.invoices[identity] = {
            "id": identity,
            "storeId": self.account.name,
            "amount": str(wanted["amount"]),
            "currency": wanted["currency"],
            "type": "Standard",
            "checkoutLink": f"{self.account.url}/i/{identity}",
            "createdTime": int(time.time()),
            "expirationTime": int(time.time()) + minutes * 60,
            "monitoringExpiration": int(time.time()) + minutes * 60 + 86400,
            "status": "New",
            "additionalStatus": "None",
            "availableStatusesForManualMarking": ["Settled", "Invalid"],
            "archived": False,
            "metadata": wanted.get("metadata", {}),
            "checkout": wanted.get("checkout", {}),
        }
        return JSONResponse(self.invoices[identity])

    async def _list(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        order_ids = request.query_params.getlist("orderId")
        start = int(request.query_params.get("startDate", 0))
        found = [
            invoice
            for invoice in self.invoices.values()
            if invoice["createdTime"] >= start and (not order_ids or invoice["metadata"].get("orderId") in order_ids)
        ]
        skip, take = int(request.query_params.get("skip", 0)), int(request.query_params.get("take", 50))
        return JSONResponse(found[skip : skip + take])

    async def _get(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        invoice = self.invoices.get(request.path_params["id"])
        if invoice is None:
            return JSONResponse({"code": "invoice-not-found", "message": "The invoice was not found"}, 404)
        return JSONResponse(invoice)

    async def _methods(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        invoice = self.invoices[request.path_params["id"]]
        paid = self.paid.get(invoice["id"], Decimal(0))
        due = Decimal(invoice["amount"]) / RATE
        shared = {
            "currency": "BTC",
            "rate": str(RATE),
            # Of all methods together, in this method's coin.
            "totalPaid": str(paid),
            "due": str(max(Decimal(0), due - paid)),
            "amount": str(due),
            "payments": [],
        }
        on_chain = {"paymentMethodId": "BTC-CHAIN", "destination": "bcrt1qemulated", "paymentMethodPaid": str(paid)}
        lightning = {"paymentMethodId": "BTC-LN", "destination": "lnbcrt1emulated", "paymentMethodPaid": "0"}
        return JSONResponse([shared | on_chain, shared | lightning])

    async def _page(self, request: Request) -> Response:
        invoice = self.invoices.get(request.path_params["id"])
        if invoice is None:
            return HTMLResponse("<h1>No such invoice</h1>", 404)
        title = f"{html.escape(invoice['amount'])} {html.escape(invoice['currency'])}, {invoice['status']}"
        form = "<form method=post><button>Pay</button></form>"
        return HTMLResponse(f"<!doctype html><title>Emulated BTCPay</title><h1>{title}</h1>{form}")

    async def _pay_form(self, request: Request) -> Response:
        invoice = self.invoices[request.path_params["id"]]
        if invoice["status"] != "New":
            return JSONResponse({"error": f"the invoice is {invoice['status']}"}, 409)
        self.pay_in_full(invoice["id"])
        return RedirectResponse(invoice["checkout"].get("redirectURL", "/"), 303)

    async def _act(self, request: Request) -> Response:
        """``settle``, ``over``, ``partial`` (then expired), ``late``, ``expire``, ``invalid``."""
        invoice = self.invoices[request.path_params["id"]]
        act = request.path_params["act"]
        price = Decimal(invoice["amount"]) / RATE
        if act == "settle":
            self.pay_in_full(invoice["id"])
        elif act == "over":
            self.paid[invoice["id"]] = price * Decimal("1.5")
            self._change(invoice, "Settled", "PaidOver", "InvoiceSettled")
        elif act in ("partial", "late"):
            self.paid[invoice["id"]] = price * (Decimal("0.5") if act == "partial" else 1)
            self._change(invoice, "Expired", ADDITIONAL[act], "InvoiceExpired")
        elif act == "expire":
            self._change(invoice, "Expired", "None", "InvoiceExpired")
        elif act == "invalid":
            self._change(invoice, "Invalid", "None", "InvoiceInvalid")
        else:
            return JSONResponse({"error": "acts: settle, over, partial, late, expire, invalid"}, 404)
        return JSONResponse(invoice)

    async def _fail_next(self, request: Request) -> Response:
        self.failures += int((await request.json()).get("count", 1))
        return Response(status_code=204)


def _settings(account: Account) -> Mapping[str, str]:
    return {
        "PAYMENTS_BTCPAY_URL": account.url,
        "PAYMENTS_BTCPAY_API_KEY": account.api_key,
        "PAYMENTS_BTCPAY_STORE_ID": account.name,
        "PAYMENTS_BTCPAY_WEBHOOK_SECRETS": json.dumps([account.webhook_secret]),
    }


EMULATION: Final = Emulation(account_name="store", build=BtcPayEmulator, settings=_settings)
