"""The emulated providers of a test, over real HTTP, and the settings with which payments uses them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from local_platform.payment_providers.btcpay_emulator import BtcPayEmulator
from local_platform.payment_providers.nowpayments_emulator import NowPaymentsEmulator
from local_platform.payment_providers.stripe_emulator import StripeEmulator
from local_platform.payment_providers.webhooks import WebhookSender
from tests.support.serving import listening_socket, serving

SECRET = "whsec_first"
ROTATED = "whsec_second"
THANKS = "http://front/thanks"


@dataclass
class Emulators:
    """One account at each provider."""

    stripe: StripeEmulator
    btcpay: BtcPayEmulator
    nowpayments: NowPaymentsEmulator

    @property
    def senders(self) -> tuple[WebhookSender, ...]:
        """What delivers the webhooks of each."""
        return self.stripe.account.sender, self.btcpay.sender, self.nowpayments.sender

    def settings(self) -> dict[str, Any]:
        """The settings of payments that name these accounts."""
        return {
            "checkout_success_url": THANKS,
            "checkout_cancel_url": "http://front/credits",
            "stripe_api_key": SecretStr("rk_test"),
            "stripe_webhook_secrets": [SecretStr(ROTATED), SecretStr(SECRET)],
            "stripe_api_base": self.stripe.account.public_url,
            "btcpay_url": self.btcpay.public_url,
            "btcpay_api_key": SecretStr("btc-key"),
            "btcpay_store_id": "store",
            "btcpay_webhook_secrets": [SecretStr(SECRET)],
            "nowpayments_url": self.nowpayments.public_url,
            "nowpayments_api_key": SecretStr("now-key"),
            "nowpayments_ipn_secrets": [SecretStr(SECRET)],
            "nowpayments_email": "ops@example.com",
            "nowpayments_password": SecretStr("pw"),
        }


@asynccontextmanager
async def emulated_providers(payments_url: str) -> AsyncIterator[Emulators]:
    """Run one emulator of each provider; their webhooks go to ``payments_url``."""
    stripe_listener, stripe_url = listening_socket()
    btcpay_listener, btcpay_url = listening_socket()
    nowpayments_listener, nowpayments_url = listening_socket()
    stripe = StripeEmulator("rk_test", stripe_url)
    stripe.account.add_endpoint(f"{payments_url}/webhooks/stripe", ["*"], SECRET)
    btcpay = BtcPayEmulator("btc-key", "store", btcpay_url, f"{payments_url}/webhooks/btcpay", SECRET)
    nowpayments = NowPaymentsEmulator("now-key", "ops@example.com", "pw", nowpayments_url, SECRET)
    async with (
        serving(stripe.app(), stripe_listener),
        serving(btcpay.app(), btcpay_listener),
        serving(nowpayments.app(), nowpayments_listener),
    ):
        yield Emulators(stripe, btcpay, nowpayments)
