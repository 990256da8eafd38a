"""One emulated Stripe account: its objects, and what happens to them."""

import hashlib
import hmac
import json
import time
from typing import Any

from local_platform.payment_providers import stripe_objects as objects
from local_platform.payment_providers.webhooks import Delivery, WebhookSender

API_VERSION = "2026-10-28.endive"


class StripeError(Exception):
    """An answer of Stripe's error shape."""

    def __init__(self, status: int, error_type: str, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": error_type, "message": message, "code": code}}


def missing(kind: str, identity: str) -> StripeError:
    """What Stripe answers for an id that it does not know."""
    return StripeError(404, "invalid_request_error", f"No such {kind}: '{identity}'", "resource_missing")


class StripeAccount:
    """Objects by kind and id, newest last, and the events that their changes made."""

    def __init__(self, public_url: str, sender: WebhookSender) -> None:
        self.public_url = public_url
        self.sender = sender
        self.sessions: dict[str, dict[str, Any]] = {}
        self.intents: dict[str, dict[str, Any]] = {}
        self.charges: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.disputes: dict[str, dict[str, Any]] = {}
        self.warnings: dict[str, dict[str, Any]] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, tuple[dict[str, Any], str]] = {}
        self.undelivered: set[str] = set()
        self._intent_metadata: dict[str, dict[str, Any]] = {}

    def open_session(self, form: dict[str, Any]) -> dict[str, Any]:
        """Create a Checkout Session; its page is at ``url``."""
        if form.get("mode") != "payment" or not form.get("line_items"):
            raise StripeError(400, "invalid_request_error", "mode=payment and line_items are required")
        expires_at = int(form.get("expires_at", time.time() + 86400))
        if not time.time() + 1790 <= expires_at <= time.time() + 86410:
            message = (
                "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation."
            )
            raise StripeError(400, "invalid_request_error", message)
        session = objects.checkout_session(form, self.public_url)
        self.sessions[session["id"]] = session
        self._intent_metadata[session["id"]] = form.get("payment_intent_data", {}).get("metadata", {})
        return session

    def pay(self, session_id: str, method: str = "card") -> dict[str, Any]:
        """The buyer pays: ``card`` succeeds at once, ``delayed`` completes the session and leaves it unpaid."""
        session = self.session(session_id)
        if session["status"] != "open":
            raise StripeError(400, "invalid_request_error", f"This Checkout Session is {session['status']}.")
        status = "succeeded" if method == "card" else "processing"
        intent = objects.payment_intent(session, self._intent_metadata[session_id], status)
        self.intents[intent["id"]] = intent
        session |= {"status": "complete", "payment_intent": intent["id"]}
        if method == "card":
            session["payment_status"] = "paid"
            self._charge(intent)
        self._emit("checkout.session.completed", session)
        return session

    def finish_delayed(self, session_id: str, succeeded: bool) -> dict[str, Any]:
        """The bank's answer to a delayed payment."""
        session = self.session(session_id)
        intent = self.intents[session["payment_intent"]]
        if intent["status"] != "processing":
            raise StripeError(400, "invalid_request_error", f"This PaymentIntent is {intent['status']}.")
        if succeeded:
            intent |= {"status": "succeeded", "amount_received": intent["amount"]}
            session["payment_status"] = "paid"
            self._charge(intent)
            self._emit("checkout.session.async_payment_succeeded", session)
        else:
            intent["status"] = "requires_payment_method"
            self._emit("checkout.session.async_payment_failed", session)
        return session

    def expire(self, session_id: str) -> dict[str, Any]:
        """Close an open session."""
        session = self.session(session_id)
        if session["status"] != "open":
            raise StripeError(400, "invalid_request_error", f"This Checkout Session is {session['status']}.")
        session |= {"status": "expired", "url": None}
        self._emit("checkout.session.expired", session)
        return session

    def expire_due(self) -> None:
        """Close every session whose time is over."""
        for session in list(self.sessions.values()):
            if session["status"] == "open" and session["expires_at"] <= time.time():
                self.expire(session["id"])

    def refund(
        self,
        intent_id: str,
        amount: int | None,
        reason: str | None,
        metadata: dict[str, Any],
        status: str = "succeeded",
    ) -> dict[str, Any]:
        """Give back part or all of a charge, through the API or in the dashboard."""
        charge = self.charge_of(intent_id)
        left = charge["amount"] - charge["amount_refunded"]
        wanted = left if amount is None else amount
        if left == 0:
            raise StripeError(
                400, "invalid_request_error", "Charge has already been refunded.", "charge_already_refunded"
            )
        if not 0 < wanted <= left:
            raise StripeError(
                400, "invalid_request_error", f"Refund amount is greater than unrefunded amount ({left})."
            )
        refund = objects.refund(charge, wanted, reason, metadata) | {"status": status}
        self.refunds[refund["id"]] = refund
        charge["amount_refunded"] += wanted
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self._emit("refund.created", refund)
        return refund

    def change_refund(self, refund_id: str, status: str) -> dict[str, Any]:
        """A refund changes after it was made: ``succeeded``, or ``failed`` when the bank will not take it."""
        refund = self.refunds.get(refund_id)
        if refund is None:
            raise missing("refund", refund_id)
        refund["status"] = status
        if status in ("failed", "canceled"):
            charge = self.charges[refund["charge"]]
            charge["amount_refunded"] -= refund["amount"]
            charge["refunded"] = False
            self._emit("refund.failed", refund)
        self._emit("refund.updated", refund)
        return refund

    def dispute(self, intent_id: str, amount: int | None, status: str) -> dict[str, Any]:
        """The cardholder's bank takes the money back, or (``warning_*``) only asks."""
        charge = self.charge_of(intent_id)
        dispute = objects.dispute(charge, amount or charge["amount"], status)
        self.disputes[dispute["id"]] = dispute
        charge["disputed"] = True
        self._emit("charge.dispute.created", dispute)
        if not status.startswith("warning_"):
            self._emit("charge.dispute.funds_withdrawn", dispute)
        return dispute

    def change_dispute(self, dispute_id: str, status: str) -> dict[str, Any]:
        """The dispute moves on: ``needs_response``, ``under_review``, ``won``, ``lost`` or ``warning_closed``."""
        dispute = self.disputes.get(dispute_id)
        if dispute is None:
            raise missing("dispute", dispute_id)
        before = dispute["status"]
        dispute["status"] = status
        if before.startswith("warning_") and status in ("needs_response", "under_review"):
            self._emit("charge.dispute.funds_withdrawn", dispute)
        if status == "won":
            self._emit("charge.dispute.funds_reinstated", dispute)
        closed = status in ("won", "lost", "warning_closed")
        self._emit("charge.dispute.closed" if closed else "charge.dispute.updated", dispute)
        return dispute

    def warn_of_fraud(self, intent_id: str) -> dict[str, Any]:
        """The issuer expects a dispute."""
        warning = objects.early_fraud_warning(self.charge_of(intent_id))
        self.warnings[warning["id"]] = warning
        self._emit("radar.early_fraud_warning.created", warning)
        return warning

    def add_endpoint(self, url: str, enabled_events: list[str], secret: str | None = None) -> dict[str, Any]:
        """Register a webhook endpoint; the answer alone carries its signing secret."""
        endpoint = objects.webhook_endpoint(url, enabled_events)
        secret = secret or objects.new_id("whsec")
        self.endpoints[endpoint["id"]] = (endpoint, secret)
        return endpoint | {"secret": secret}

    def session(self, session_id: str) -> dict[str, Any]:
        """One session, or Stripe's 404."""
        if session_id not in self.sessions:
            raise missing("checkout.session", session_id)
        return self.sessions[session_id]

    def charge_of(self, intent_id: str) -> dict[str, Any]:
        """The charge of a paid PaymentIntent, or Stripe's error."""
        if intent_id not in self.intents:
            raise missing("payment_intent", intent_id)
        charge_id = self.intents[intent_id]["latest_charge"]
        if charge_id is None:
            raise StripeError(400, "invalid_request_error", "This PaymentIntent does not have a successful charge.")
        return self.charges[charge_id]

    def resend(self, event_id: str) -> None:
        """Deliver an event once more, as the dashboard's button does."""
        self._deliver(self.events[event_id])

    def _charge(self, intent: dict[str, Any]) -> None:
        charge = objects.charge(intent)
        self.charges[charge["id"]] = charge
        intent["latest_charge"] = charge["id"]

    def _emit(self, event_type: str, subject: dict[str, Any]) -> None:
        event = objects.event(event_type, subject, API_VERSION, None)
        self.events[event["id"]] = event
        self._deliver(event)

    def _deliver(self, event: dict[str, Any]) -> None:
        for endpoint, secret in self.endpoints.values():
            enabled = endpoint["enabled_events"]
            if "*" not in enabled and event["type"] not in enabled:
                continue
            event["pending_webhooks"] += 1
            self.undelivered.add(event["id"])
            body = json.dumps(event, indent=2).encode()
            self.sender.send(Delivery(endpoint["url"], body, _signer(secret), self._settler(event)))

    def _settler(self, event: dict[str, Any]) -> Any:
        def done(delivered: bool) -> None:
            if delivered:
                event["pending_webhooks"] = max(0, event["pending_webhooks"] - 1)
                self.undelivered.discard(event["id"])

        return done


def _signer(secret: str) -> Any:
    def sign(body: bytes) -> dict[str, str]:
        timestamp = int(time.time())
        signed = f"{timestamp}.".encode() + body
        signature = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        return {"stripe-signature": f"t={timestamp},v1={signature}"}

    return sign
