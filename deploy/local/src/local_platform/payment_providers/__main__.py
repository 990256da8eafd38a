"""``python -m local_platform.payment_providers stripe|btcpay|nowpayments --port N ...``: one emulator as a process."""

import argparse

import uvicorn
from starlette.applications import Starlette

from local_platform.payment_providers.btcpay_emulator import BtcPayEmulator
from local_platform.payment_providers.nowpayments_emulator import NowPaymentsEmulator
from local_platform.payment_providers.stripe_emulator import StripeEmulator


def build_app(arguments: argparse.Namespace) -> Starlette:
    """The chosen provider's application."""
    public_url = f"http://{arguments.host}:{arguments.port}"
    if arguments.provider == "stripe":
        stripe = StripeEmulator(arguments.api_key, public_url)
        stripe.account.add_endpoint(arguments.webhook_url, ["*"], arguments.webhook_secret)
        return stripe.app()
    if arguments.provider == "btcpay":
        return BtcPayEmulator(
            arguments.api_key, arguments.store_id, public_url, arguments.webhook_url, arguments.webhook_secret
        ).app()
    return NowPaymentsEmulator(
        arguments.api_key, arguments.email, arguments.password, public_url, arguments.webhook_secret
    ).app()


def main() -> None:
    """Parse and serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("provider", choices=["stripe", "btcpay", "nowpayments"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--webhook-url", default="", help="where Stripe's and BTCPay's webhooks go")
    parser.add_argument("--webhook-secret", required=True)
    parser.add_argument("--store-id", default="store", help="BTCPay's store")
    parser.add_argument("--email", default="", help="NOWPayments' login")
    parser.add_argument("--password", default="")
    arguments = parser.parse_args()
    uvicorn.run(build_app(arguments), host=arguments.host, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
