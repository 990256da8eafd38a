"""NOWPayments: hosted invoices, coin payments under them, and instant payment notifications signed over sorted keys."""

import hashlib
import hmac
import html
import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from local_platform.payment_providers.emulation import Account, Emulation
from local_platform.payment_providers.webhooks import Delivery, WebhookSender, closing

RETRY_DELAYS_SECONDS = (1.0, 5.0, 10.0)
RATE = 50_000.0
STATUSES = (
    "waiting",
    "confirming",
    "confirmed",
    "sending",
    "partially_paid",
    "finished",
    "failed",
    "refunded",
    "expired",
)


class NowPaymentsEmulator:
    """One account: invoices, payments by id, and a bearer token for the listing."""

    def __init__(self, account: Account) -> None:
        self.sender = WebhookSender(RETRY_DELAYS_SECONDS)
        self.invoices: dict[str, dict[str, Any]] = {}
        self.payments: dict[str, dict[str, Any]] = {}
        self.failures = 0
        self.account = account
        self._token = secrets.token_urlsafe(24)

    def app(self) -> Starlette:
        """The API, the invoice page, and the emulator's own switches."""
        return Starlette(
            routes=[
                Route("/v1/auth", self._authenticate, methods=["POST"]),
                Route("/v1/invoice", self._create_invoice, methods=["POST"]),
                Route("/v1/payment/", self._list, methods=["GET"]),
                Route("/v1/payment/{id}", self._get, methods=["GET"]),
                Route("/payment/", self._page, methods=["GET"]),
                Route("/payment/", self._pay_form, methods=["POST"]),
                Route("/admin/invoices/{id}/payments", self._pay, methods=["POST"]),
                Route("/admin/payments/{id}", self._change_payment, methods=["POST"]),
                Route("/admin/misbehaviour", self.sender.misbehave, methods=["PUT"]),
                Route("/admin/failures", self._fail_next, methods=["POST"]),
            ],
            lifespan=closing(self.sender),
        )

    def pay_in_full(self, reference: str) -> None:
        """The buyer's coins arrive, the whole price, and are confirmed."""
        self.pay(reference, "finished")

    def pay(self, invoice_id: str, status: str, share: float = 1.0) -> dict[str, Any]:
        """The buyer sends ``share`` of the price in coins; notify of ``status``."""
        invoice = self.invoices[invoice_id]
        identity = secrets.randbelow(9 * 10**9) + 10**9
        asked = round(invoice["price_amount"] / RATE, 8)
        payment = {
            "payment_id": identity,
            "invoice_id": int(invoice_id),
            "payment_status": "waiting",
            "pay_address": "bc1qemulated",
            "price_amount": invoice["price_amount"],
            "price_currency": invoice["price_currency"],
            "pay_amount": asked,
            "actually_paid": 0,
            "pay_currency": "btc",
            "order_id": invoice["order_id"],
            "parent_payment_id": None,
            "payment_extra_ids": None,
            "order_description": invoice["order_description"],
            "purchase_id": str(identity + 1),
            "outcome_amount": asked,
            "outcome_currency": "btc",
            "created_at": _now(),
            "updated_at": _now(),
        }
        self.payments[str(identity)] = payment
        return self.change(str(identity), status, share)

    def deposit_again(self, payment_id: str, share: float) -> dict[str, Any]:
        """Coins arrive later at the address of a coin payment: a payment of its own, without order and invoice."""
        parent = self.payments[payment_id]
        identity = secrets.randbelow(9 * 10**9) + 10**9
        self.payments[str(identity)] = parent | {
            "payment_id": identity,
            "parent_payment_id": parent["payment_id"],
            "invoice_id": None,
            "order_id": None,
            "order_description": None,
            "created_at": _now(),
        }
        parent["payment_extra_ids"] = [*(parent["payment_extra_ids"] or []), identity]
        return self.change(str(identity), "finished", share)

    def change(self, payment_id: str, status: str, share: float | None = None) -> dict[str, Any]:
        """A coin payment moves to another status, and its notification goes out."""
        payment = self.payments[payment_id]
        payment |= {"payment_status": status, "updated_at": _now()}
        if share is not None:
            payment["actually_paid"] = round(payment["pay_amount"] * share, 8)
        parent = self.payments.get(str(payment["parent_payment_id"]), payment)
        callback = self.invoices[str(parent["invoice_id"])]["ipn_callback_url"]
        self.sender.send(Delivery(callback, json.dumps(payment).encode(), self._sign))
        return payment

    def _sign(self, body: bytes) -> dict[str, str]:
        ordered = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hmac.new(self.account.webhook_secret.encode(), ordered.encode(), hashlib.sha512)
        return {"x-nowpayments-sig": digest.hexdigest()}

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("x-api-key") != self.account.api_key:
            return JSONResponse({"status": False, "statusCode": 403, "code": "INVALID_API_KEY"}, 403)
        if self.failures > 0:
            self.failures -= 1
            return JSONResponse({"status": False, "statusCode": 500, "code": "INTERNAL_ERROR"}, 500)
        return None

    async def _authenticate(self, request: Request) -> Response:
        given = await request.json()
        if (given.get("email"), given.get("password")) != (self.account.name, self.account.password):
            return JSONResponse({"status": False, "statusCode": 403, "code": "AUTH_REQUIRED"}, 403)
        return JSONResponse({"token": self._token})

    async def _create_invoice(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        wanted = await request.json()
        identity = str(secrets.randbelow(9 * 10**9) + 10**9)
        self.invoices[identity] = {
            "id": identity,
            "token_id": secrets.token_hex(5),
            "order_id": wanted["order_id"],
            "order_description": wanted.get("order_description"),
            "price_amount": wanted["price_amount"],
            "price_currency": wanted["price_currency"],
            "pay_currency": None,
            "ipn_callback_url": wanted["ipn_callback_url"],
            "invoice_url": f"{self.account.url}/payment/?iid={identity}",
            "success_url": wanted.get("success_url"),
            "cancel_url": wanted.get("cancel_url"),
            "created_at": _now(),
            "updated_at": _now(),
        }
        return JSONResponse(self.invoices[identity])

    async def _list(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if request.headers.get("authorization") != f"Bearer {self._token}":
            return JSONResponse({"status": False, "statusCode": 401, "code": "AUTH_REQUIRED"}, 401)
        query = request.query_params
        found = [
            payment
            for payment in self.payments.values()
            if query.get("invoiceId") in (None, str(payment["invoice_id"]))
            and payment["created_at"][:10] >= query.get("dateFrom", "")[:10]
        ]
        limit, page = int(query.get("limit", 10)), int(query.get("page", 0))
        return JSONResponse(
            {
                "data": found[page * limit : (page + 1) * limit],
                "limit": limit,
                "page": page,
                "pagesCount": -(-len(found) // limit),
                "total": len(found),
            }
        )

    async def _get(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        payment = self.payments.get(request.path_params["id"])
        if payment is None:
            return JSONResponse({"status": False, "statusCode": 404, "code": "PAYMENT_NOT_FOUND"}, 404)
        return JSONResponse(payment)

    async def _page(self, request: Request) -> Response:
        invoice = self.invoices.get(request.query_params.get("iid", ""))
        if invoice is None:
            return HTMLResponse("<h1>No such invoice</h1>", 404)
        title = f"{invoice['price_amount']} {html.escape(invoice['price_currency'])}"
        form = "<form method=post><button>Pay in coins</button></form>"
        return HTMLResponse(f"<!doctype html><title>Emulated NOWPayments</title><h1>{title}</h1>{form}")

    async def _pay_form(self, request: Request) -> Response:
        invoice = self.invoices[request.query_params["iid"]]
        payment = self.pay(invoice["id"], "confirming")
        self.change(str(payment["payment_id"]), "finished")
        return RedirectResponse(invoice["success_url"] or "/", 303)

    async def _pay(self, request: Request) -> Response:
        """``{"status": "finished", "share": 1.0}``: a buyer pays under an invoice."""
        given = await request.json()
        return JSONResponse(self.pay(request.path_params["id"], given["status"], float(given.get("share", 1))))

    async def _change_payment(self, request: Request) -> Response:
        given = await request.json()
        if given["status"] not in STATUSES:
            return JSONResponse({"error": f"statuses: {', '.join(STATUSES)}"}, 422)
        return JSONResponse(self.change(request.path_params["id"], given["status"], given.get("share")))

    async def _fail_next(self, request: Request) -> Response:
        self.failures += int((await request.json()).get("count", 1))
        return Response(status_code=204)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _settings(account: Account) -> Mapping[str, str]:
    return {
        "PAYMENTS_NOWPAYMENTS_URL": account.url,
        "PAYMENTS_NOWPAYMENTS_API_KEY": account.api_key,
        "PAYMENTS_NOWPAYMENTS_IPN_SECRETS": json.dumps([account.webhook_secret]),
        "PAYMENTS_NOWPAYMENTS_EMAIL": account.name,
        "PAYMENTS_NOWPAYMENTS_PASSWORD": account.password,
    }


EMULATION: Final = Emulation(account_name="reelhouse@example.test", build=NowPaymentsEmulator, settings=_settings)
