"""Stripe's objects as its API shows them: every documented key, empty where this emulator has nothing to say."""

import secrets
import time
from typing import Any


def new_id(prefix: str) -> str:
    """An id in Stripe's form: a prefix and 24 random letters and digits."""
    return f"{prefix}_{secrets.token_hex(12)}"


def _blank(keys: str) -> dict[str, Any]:
    return dict.fromkeys(keys.split())


_SESSION_KEYS = (
    "after_expiration allow_promotion_codes billing_address_collection client_secret consent consent_collection"
    " customer customer_creation customer_details customer_email invoice invoice_creation locale payment_intent"
    " payment_link"
    " payment_method_collection payment_method_configuration_details phone_number_collection recovered_from"
    " saved_payment_method_options setup_intent shipping_address_collection shipping_cost submit_type subscription"
    " adaptive_pricing discounts collected_information permissions wallet_options origin_context currency_conversion"
    " customer_account integration_identifier managed_payments"
)
_INTENT_KEYS = (
    "amount_details application application_fee_amount canceled_at cancellation_reason client_secret customer"
    " description last_payment_error latest_charge next_action on_behalf_of payment_method"
    " payment_method_configuration_details"
    " processing receipt_email review setup_future_usage shipping statement_descriptor statement_descriptor_suffix"
    " transfer_data transfer_group source excluded_payment_method_types customer_account managed_payments"
)
_CHARGE_KEYS = (
    "application application_fee application_fee_amount balance_transaction calculated_statement_descriptor customer"
    " description failure_balance_transaction failure_code failure_message on_behalf_of outcome payment_method"
    " receipt_email receipt_number receipt_url review shipping source_transfer statement_descriptor"
    " statement_descriptor_suffix transfer_data transfer_group source"
)
_REFUND_KEYS = (
    "balance_transaction destination_details receipt_number source_transfer_reversal transfer_reversal customer"
    " customer_account payment_method"
)


def checkout_session(form: dict[str, Any], public_url: str) -> dict[str, Any]:
    """An open Checkout Session for the line items of ``form``."""
    identity = new_id("cs_test")
    items = form["line_items"]
    amount = sum(int(item["price_data"]["unit_amount"]) * int(item.get("quantity", 1)) for item in items)
    return _blank(_SESSION_KEYS) | {
        "id": identity,
        "object": "checkout.session",
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "cancel_url": form.get("cancel_url"),
        "client_reference_id": form.get("client_reference_id"),
        "created": int(time.time()),
        "currency": items[0]["price_data"]["currency"],
        "custom_fields": [],
        "custom_text": {},
        "expires_at": int(form.get("expires_at", time.time() + 86400)),
        "livemode": False,
        "metadata": form.get("metadata", {}),
        "mode": "payment",
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "shipping_options": [],
        "status": "open",
        "success_url": form.get("success_url"),
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted",
        "url": f"{public_url}/c/pay/{identity}",
    }


def payment_intent(session: dict[str, Any], metadata: dict[str, Any], status: str) -> dict[str, Any]:
    """The PaymentIntent behind a session."""
    paid = session["amount_total"] if status == "succeeded" else 0
    return _blank(_INTENT_KEYS) | {
        "id": new_id("pi"),
        "object": "payment_intent",
        "amount": session["amount_total"],
        "amount_capturable": 0,
        "amount_received": paid,
        "automatic_payment_methods": {"enabled": True},
        "capture_method": "automatic",
        "confirmation_method": "automatic",
        "created": int(time.time()),
        "currency": session["currency"],
        "livemode": False,
        "metadata": metadata,
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "status": status,
    }


def charge(intent: dict[str, Any]) -> dict[str, Any]:
    """The captured charge of a PaymentIntent."""
    return _blank(_CHARGE_KEYS) | {
        "id": new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount"],
        "amount_refunded": 0,
        "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        "captured": True,
        "created": int(time.time()),
        "currency": intent["currency"],
        "disputed": False,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent["metadata"],
        "paid": True,
        "payment_intent": intent["id"],
        "payment_method_details": {"type": "card"},
        # Like Stripe's it leads to a page that needs no account.
        "receipt_url": f"https://pay.stripe.com/receipts/payment/{new_id('emulated')}",
        "refunded": False,
        "refunds": {"object": "list", "data": [], "has_more": False, "url": "/v1/refunds"},
        "status": "succeeded",
    }


def refund(charged: dict[str, Any], amount: int, reason: str | None, metadata: dict[str, Any]) -> dict[str, Any]:
    """A refund of a charge, part or whole, succeeded at once as card refunds are."""
    return _blank(_REFUND_KEYS) | {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "charge": charged["id"],
        "created": int(time.time()),
        "currency": charged["currency"],
        "metadata": metadata,
        "payment_intent": charged["payment_intent"],
        "reason": reason,
        "status": "succeeded",
    }


def dispute(charged: dict[str, Any], amount: int, status: str) -> dict[str, Any]:
    """A dispute or, with a status ``warning_*``, an inquiry that moves no money."""
    return {
        "id": new_id("dp"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charged["id"],
        "created": int(time.time()),
        "currency": charged["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {},
        "evidence_details": {"due_by": int(time.time()) + 7 * 86400, "has_evidence": False, "past_due": False},
        "is_charge_refundable": status.startswith("warning_"),
        "livemode": False,
        "metadata": {},
        "payment_intent": charged["payment_intent"],
        "payment_method_details": {"type": "card"},
        "reason": "fraudulent",
        "status": status,
    }


def early_fraud_warning(charged: dict[str, Any]) -> dict[str, Any]:
    """A card issuer's word that a charge may be disputed."""
    return {
        "id": new_id("issfr"),
        "object": "radar.early_fraud_warning",
        "actionable": True,
        "charge": charged["id"],
        "created": int(time.time()),
        "fraud_type": "made_with_stolen_card",
        "livemode": False,
    }


def event(event_type: str, subject: dict[str, Any], api_version: str, idempotency_key: str | None) -> dict[str, Any]:
    """An event about a copy of ``subject`` as it is now."""
    return {
        "id": new_id("evt"),
        "object": "event",
        "api_version": api_version,
        "created": int(time.time()),
        "data": {"object": dict(subject)},
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": new_id("req"), "idempotency_key": idempotency_key},
        "type": event_type,
    }


def webhook_endpoint(url: str, enabled_events: list[str]) -> dict[str, Any]:
    """An enabled endpoint; its signing secret is shown by the creating call alone."""
    return {
        "id": new_id("we"),
        "object": "webhook_endpoint",
        "api_version": None,
        "application": None,
        "created": int(time.time()),
        "description": None,
        "enabled_events": enabled_events,
        "livemode": False,
        "metadata": {},
        "status": "enabled",
        "url": url,
    }
