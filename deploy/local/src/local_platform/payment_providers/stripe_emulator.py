"""Stripe's API over HTTP for one emulated account: what stripe-python and a buyer's browser see of it."""

import asyncio
import contextlib
import hashlib
import html
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from local_platform.payment_providers import forms
from local_platform.payment_providers.emulation import Account, Emulation
from local_platform.payment_providers.stripe_account import StripeAccount, StripeError, missing
from local_platform.payment_providers.webhooks import WebhookSender

RETRY_DELAYS_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Stripe retries for up to three days with growing pauses; the emulator's days are shorter."""

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass
class Recorded:
    """An answer kept under an idempotency key, errors included, as Stripe keeps it."""

    request_digest: str
    status: int | None = None
    body: Any = None


class StripeEmulator:
    """Routes, authentication, idempotency keys, injected failures and a record of every request."""

    def __init__(self, api_key: str, public_url: str) -> None:
        self.account = StripeAccount(public_url, WebhookSender(RETRY_DELAYS_SECONDS))
        self.requests: list[dict[str, Any]] = []
        self._api_key = api_key
        self._idempotent: dict[str, Recorded] = {}
        self._failures: list[dict[str, Any]] = []

    @property
    def sender(self) -> WebhookSender:
        """What delivers the account's webhooks."""
        return self.account.sender

    def pay_in_full(self, reference: str) -> None:
        """The buyer pays by card."""
        self.account.pay(reference)

    def app(self) -> Starlette:
        """The application: the API, the pay page, and the emulator's own switches under ``/admin``."""
        account = self.account
        routes = [
            self._api("/v1/checkout/sessions", ["POST"], self._open_session),
            self._api("/v1/checkout/sessions", ["GET"], self._lister(account.sessions)),
            self._api("/v1/checkout/sessions/{id}", ["GET"], self._get_session),
            self._api("/v1/checkout/sessions/{id}/expire", ["POST"], self._expire_session),
            self._api("/v1/payment_intents/{id}", ["GET"], self._getter("payment_intent", account.intents)),
            self._api("/v1/charges/{id}", ["GET"], self._getter("charge", account.charges)),
            self._api("/v1/refunds", ["POST"], self._create_refund),
            self._api("/v1/refunds", ["GET"], self._lister(account.refunds)),
            self._api("/v1/refunds/{id}", ["GET"], self._getter("refund", account.refunds)),
            self._api("/v1/disputes", ["GET"], self._lister(account.disputes)),
            self._api("/v1/disputes/{id}", ["GET"], self._getter("dispute", account.disputes)),
            self._api("/v1/events", ["GET"], self._lister(account.events)),
            self._api("/v1/events/{id}", ["GET"], self._getter("event", account.events)),
            self._api("/v1/webhook_endpoints", ["POST"], self._add_endpoint),
            Route("/c/pay/{id}", self._pay_page, methods=["GET"]),
            Route("/c/pay/{id}", self._pay_form, methods=["POST"]),
            Route("/admin/misbehaviour", self.sender.misbehave, methods=["PUT"]),
            Route("/admin/failures", self._fail_next, methods=["POST"]),
            Route("/admin/requests", self._show_requests, methods=["GET"]),
            Route("/admin/objects", self._show_objects, methods=["GET"]),
            Route("/admin/acts/{act}", self._act, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    def forget_idempotency_keys(self) -> None:
        """Stripe keeps a key for a day; what comes under it then is executed again."""
        self._idempotent.clear()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async def expire_sessions() -> None:
            while True:
                self.account.expire_due()
                await asyncio.sleep(0.5)

        expiry = asyncio.create_task(expire_sessions())
        try:
            yield
        finally:
            expiry.cancel()
            await self.sender.close()

    def _api(self, path: str, methods: list[str], handler: Callable[[Request, dict[str, Any]], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            raw = (await request.body()).decode() if request.method == "POST" else request.url.query
            form = forms.parse(raw)
            self.requests.append(
                {
                    "method": request.method,
                    "path": request.url.path,
                    "parameters": form,
                    "idempotency_key": request.headers.get("idempotency-key"),
                    "stripe_version": request.headers.get("stripe-version"),
                    "at": time.time(),
                }
            )
            if request.headers.get("authorization") != f"Bearer {self._api_key}":
                refused = StripeError(401, "invalid_request_error", "Invalid API Key provided")
                return JSONResponse(refused.body, refused.status)
            return self._answer(request, raw, form, handler)

        return Route(path, endpoint, methods=methods)

    def _answer(
        self, request: Request, raw: str, form: dict[str, Any], handler: Callable[[Request, dict[str, Any]], Any]
    ) -> Response:
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        digest = hashlib.sha256(f"{request.url.path}?{raw}".encode()).hexdigest()
        recorded = self._idempotent.get(key) if key else None
        if recorded is not None:
            if recorded.request_digest != digest:
                message = (
                    "Keys for idempotent requests can only be used with the same parameters they were first used with."
                )
                return JSONResponse(StripeError(400, "idempotency_error", message).body, 400)
            return JSONResponse(recorded.body, recorded.status or 200, {"idempotent-replayed": "true"})
        failure = self._take_failure(request)
        status, body = self._execute(request, form, handler, failure)
        # Stripe records what an executed request answered, even a 500; a refusal to execute is not recorded.
        if key and status not in (401, 403, 429):
            self._idempotent[key] = Recorded(digest, status, body)
        if failure is not None and failure.get("reset"):
            raise ConnectionResetError("the emulator was asked to break this connection")
        return JSONResponse(body, status)

    def _execute(
        self,
        request: Request,
        form: dict[str, Any],
        handler: Callable[[Request, dict[str, Any]], Any],
        failure: dict[str, Any] | None,
    ) -> tuple[int, Any]:
        if failure is not None and not failure.get("after_success") and not failure.get("reset"):
            status = int(failure.get("status", 500))
            return status, {"error": {"type": "api_error", "message": "injected by the emulator"}}
        try:
            body = handler(request, form)
        except StripeError as error:
            return error.status, error.body
        if failure is not None and failure.get("after_success"):
            return 500, {"error": {"type": "api_error", "message": "injected after the effect"}}
        return 200, json.loads(json.dumps(body))

    def _take_failure(self, request: Request) -> dict[str, Any] | None:
        for failure in self._failures:
            wanted = failure.get("method", request.method) == request.method
            if wanted and request.url.path.startswith(failure.get("path", "/v1/")) and failure["count"] > 0:
                failure["count"] -= 1
                return failure
        return None

    def _open_session(self, _: Request, form: dict[str, Any]) -> dict[str, Any]:
        return self.account.open_session(form)

    def _get_session(self, request: Request, form: dict[str, Any]) -> dict[str, Any]:
        session = dict(self.account.session(request.path_params["id"]))
        if "payment_intent" in form.get("expand", []) and session["payment_intent"]:
            intent = dict(self.account.intents[session["payment_intent"]])
            if "payment_intent.latest_charge" in form["expand"] and intent["latest_charge"]:
                intent["latest_charge"] = self.account.charges[intent["latest_charge"]]
            session["payment_intent"] = intent
        return session

    def _expire_session(self, request: Request, _: dict[str, Any]) -> dict[str, Any]:
        return self.account.expire(request.path_params["id"])

    def _create_refund(self, _: Request, form: dict[str, Any]) -> dict[str, Any]:
        amount = int(form["amount"]) if "amount" in form else None
        return self.account.refund(form["payment_intent"], amount, form.get("reason"), form.get("metadata", {}))

    def _add_endpoint(self, _: Request, form: dict[str, Any]) -> dict[str, Any]:
        return self.account.add_endpoint(form["url"], form["enabled_events"])

    def _getter(self, kind: str, found: dict[str, dict[str, Any]]) -> Callable[[Request, dict[str, Any]], Any]:
        def get(request: Request, _: dict[str, Any]) -> dict[str, Any]:
            identity = request.path_params["id"]
            if identity not in found:
                raise missing(kind, identity)
            return found[identity]

        return get

    def _lister(self, found: dict[str, dict[str, Any]]) -> Callable[[Request, dict[str, Any]], Any]:
        """A paged list, newest first, with the filters that Stripe documents for these resources."""

        def listing(request: Request, form: dict[str, Any]) -> dict[str, Any]:
            items = [item for item in reversed(found.values()) if self._matches(item, form)]
            after = form.get("starting_after")
            if after is not None:
                position = next((n for n, item in enumerate(items) if item["id"] == after), None)
                if position is None:
                    raise missing("object", after)
                items = items[position + 1 :]
            limit = int(form.get("limit", 10))
            return {
                "object": "list",
                "data": items[:limit],
                "has_more": len(items) > limit,
                "url": request.url.path,
            }

        return listing

    def _matches(self, item: dict[str, Any], form: dict[str, Any]) -> bool:
        created = form.get("created", {})
        if "gte" in created and item["created"] < int(created["gte"]):
            return False
        if "payment_intent" in form and item.get("payment_intent") != form["payment_intent"]:
            return False
        if "types" in form and item.get("type") not in form["types"]:
            return False
        if "delivery_success" in form:
            wanted: bool = form["delivery_success"].lower() == "true"
            return (item["id"] not in self.account.undelivered) is wanted
        return True

    async def _pay_page(self, request: Request) -> Response:
        session = self.account.sessions.get(request.path_params["id"])
        if session is None:
            return HTMLResponse("<h1>No such checkout</h1>", 404)
        amount = f"{session['amount_total'] / 100:.2f} {html.escape(session['currency'].upper())}"
        choices = {"card": "Pay by card", "delayed": "Pay by bank debit (settles later)", "abandon": "Let it expire"}
        buttons = "".join(
            f'<button name="method" value="{value}">{label}</button> ' for value, label in choices.items()
        )
        page = f"<!doctype html><title>Emulated checkout</title><h1>{amount}</h1><p>{session['status']}</p>"
        return HTMLResponse(f'{page}<form method="post">{buttons}</form>')

    async def _pay_form(self, request: Request) -> Response:
        method = forms.parse((await request.body()).decode()).get("method", "card")
        identity = request.path_params["id"]
        try:
            session = self.account.expire(identity) if method == "abandon" else self.account.pay(identity, method)
        except StripeError as error:
            return JSONResponse(error.body, error.status)
        return RedirectResponse(session["cancel_url"] if method == "abandon" else session["success_url"], 303)

    async def _fail_next(self, request: Request) -> Response:
        """``{"count": 1, "method": "POST", "path": "/v1/refunds", "status": 500, "after_success": false}``.

        ``reset`` breaks the connection instead. All of it is optional.
        """
        self._failures.append({"count": 1, **await request.json()})
        return Response(status_code=204)

    async def _show_requests(self, _: Request) -> Response:
        return JSONResponse(self.requests)

    async def _show_objects(self, _: Request) -> Response:
        account = self.account
        kinds = ("sessions", "intents", "charges", "refunds", "disputes", "warnings", "events")
        return JSONResponse({kind: list(getattr(account, kind).values()) for kind in kinds})

    async def _act(self, request: Request) -> Response:
        """Events at Stripe without a request of ours: by the buyer, the bank, or in the dashboard."""
        given = await request.json()
        account = self.account
        acts: dict[str, Callable[[], Any]] = {
            "pay": lambda: account.pay(given["session"], given.get("method", "card")),
            "finish-delayed": lambda: account.finish_delayed(given["session"], given["succeeded"]),
            "expire": lambda: account.expire(given["session"]),
            "refund": lambda: account.refund(
                given["payment_intent"], given.get("amount"), None, {}, given.get("status", "succeeded")
            ),
            "change-refund": lambda: account.change_refund(given["refund"], given["status"]),
            "dispute": lambda: account.dispute(
                given["payment_intent"], given.get("amount"), given.get("status", "needs_response")
            ),
            "change-dispute": lambda: account.change_dispute(given["dispute"], given["status"]),
            "warn-of-fraud": lambda: account.warn_of_fraud(given["payment_intent"]),
            "resend": lambda: account.resend(given["event"]),
            "forget-idempotency-keys": self.forget_idempotency_keys,
            "add-endpoint": lambda: account.add_endpoint(
                given["url"], given.get("enabled_events", ["*"]), given.get("secret")
            ),
        }
        act = acts.get(request.path_params["act"])
        if act is None:
            return JSONResponse({"error": f"acts: {', '.join(acts)}"}, 404)
        try:
            return JSONResponse(act())
        except StripeError as error:
            return JSONResponse(error.body, error.status)


def _build(account: Account) -> StripeEmulator:
    emulator = StripeEmulator(account.api_key, account.url)
    emulator.account.add_endpoint(account.webhook_url, ["*"], account.webhook_secret)
    return emulator


def _settings(account: Account) -> Mapping[str, str]:
    return {
        "PAYMENTS_STRIPE_API_KEY": account.api_key,
        "PAYMENTS_STRIPE_WEBHOOK_SECRETS": json.dumps([account.webhook_secret]),
        "PAYMENTS_STRIPE_API_BASE": account.url,
    }


EMULATION: Final = Emulation(account_name="reelhouse", build=_build, settings=_settings)
