"""Which adapter belongs to which provider."""

from collections.abc import Mapping
from typing import Final

from contracts.payments import Provider
from payments.providers.btcpay import BtcPay
from payments.providers.interface import PaymentProvider
from payments.providers.nowpayments import NowPayments
from payments.providers.stripe_checkout import StripeCheckout
from payments.settings import Settings
from service_runtime.database_watch import DatabaseClock

ADAPTERS: Final[Mapping[Provider, type[PaymentProvider]]] = {
    "stripe": StripeCheckout,
    "btcpay": BtcPay,
    "nowpayments": NowPayments,
}


def build_providers(settings: Settings, clock: DatabaseClock) -> dict[Provider, PaymentProvider]:
    """The providers that are offered here: those whose settings are there."""
    return {provider: ADAPTERS[provider].from_settings(settings, clock) for provider in settings.offered_providers()}
