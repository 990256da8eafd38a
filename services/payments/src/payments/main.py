"""The only wiring of payments: ``python -m payments.main serve|migrate|reviews|resolve|refund``."""

import argparse
import asyncio
import sys
from datetime import timedelta
from functools import partial
from uuid import UUID

from pydantic import SecretStr

from catalogue.credit_packs import load_credit_packs
from contracts.payments import Provider
from messaging.ids import new_id
from messaging.runtime import Messaging
from messaging.transaction import Transactions
from payments import operations, queries
from payments.consumers import subscriptions
from payments.driver import ROUND_LIMIT_SECONDS, Driver
from payments.handlers import Policy
from payments.http import build_app
from payments.providers.btcpay import BtcPay
from payments.providers.interface import PaymentProvider
from payments.providers.nowpayments import NowPayments
from payments.providers.stripe_checkout import StripeCheckout
from payments.reconciliation import Reconciliation, report_unposted
from payments.settings import Settings
from service_runtime.database import create_engine
from service_runtime.lifecycle import HttpServer, run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import every
from service_runtime.migrations import migrate
from service_runtime.settings import settings_from_environment


def build_providers(settings: Settings) -> dict[Provider, PaymentProvider]:
    """The providers whose credentials are set."""
    providers: dict[Provider, PaymentProvider] = {}
    if settings.stripe_api_key is not None:
        providers["stripe"] = StripeCheckout(
            api_key=settings.stripe_api_key.get_secret_value(),
            webhook_secrets=_plain(settings.stripe_webhook_secrets),
            success_url=settings.checkout_success_url,
            cancel_url=settings.checkout_cancel_url,
            api_base=settings.stripe_api_base,
        )
    if settings.btcpay_url and settings.btcpay_api_key and settings.btcpay_store_id:
        providers["btcpay"] = BtcPay(
            base_url=settings.btcpay_url,
            api_key=settings.btcpay_api_key.get_secret_value(),
            store_id=settings.btcpay_store_id,
            webhook_secrets=_plain(settings.btcpay_webhook_secrets),
            success_url=settings.checkout_success_url,
        )
    if settings.nowpayments_api_key and settings.nowpayments_email and settings.nowpayments_password:
        providers["nowpayments"] = NowPayments(
            base_url=settings.nowpayments_url,
            api_key=settings.nowpayments_api_key.get_secret_value(),
            ipn_secrets=_plain(settings.nowpayments_ipn_secrets),
            email=settings.nowpayments_email,
            password=settings.nowpayments_password.get_secret_value(),
            ipn_callback_url=f"{settings.public_base_url.rstrip('/')}/webhooks/nowpayments",
            success_url=settings.checkout_success_url,
        )
    return providers


def _plain(secrets: list[SecretStr] | None) -> tuple[str, ...]:
    return tuple(secret.get_secret_value() for secret in secrets or ())


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    engine = create_engine(settings)
    providers = build_providers(settings)
    policy = Policy(
        packs={pack.id: pack for pack in load_credit_packs()},
        providers=frozenset(providers),
        max_open_payments=settings.max_open_payments,
        lifetime=timedelta(seconds=settings.payment_lifetime_seconds),
    )
    due = {name: asyncio.Event() for name in providers}

    def wake() -> None:
        for event in due.values():
            event.set()

    messaging = Messaging(
        service="payments",
        engine=engine,
        settings=settings,
        subscriptions=subscriptions(policy, wake),
    )
    sweep_seconds = min(30.0, settings.events_sweep_seconds)
    loops = [every("unposted", sweep_seconds, partial(report_unposted, messaging.transactions))]
    for name, provider in providers.items():
        # Loops of its own for each provider: one that hangs holds up nobody else.
        driver = Driver(messaging.transactions, provider)
        reconciliation = Reconciliation(
            messaging.transactions,
            provider,
            timedelta(seconds=settings.events_sweep_seconds),
            timedelta(seconds=settings.compare_sweep_seconds),
            wake,
        )
        loops += [
            every(
                f"driver-{name}",
                settings.poll_seconds,
                driver.drive,
                wake=due[name],
                timeout_seconds=ROUND_LIMIT_SECONDS,
            ),
            every(f"reconciliation-{name}", sweep_seconds, reconciliation.sweep, timeout_seconds=900.0),
        ]

    async def stop() -> None:
        for provider in providers.values():
            await provider.close()
        await engine.dispose()

    await run_service(
        "payments",
        settings,
        components=[
            *messaging.components(),
            *loops,
        ],
        http=[HttpServer(build_app(messaging.transactions, providers, wake), settings.http_host, settings.http_port)],
        readiness=messaging.readiness(),
        on_stop=stop,
    )


async def operate(settings: Settings, arguments: argparse.Namespace) -> None:
    """One act of an operator, in one transaction; the running service carries it on."""
    engine = create_engine(settings)
    try:
        async with Transactions(engine, producer="payments").begin() as tx:
            if arguments.command == "reviews":
                _say(await queries.open_reviews(tx.connection))
            elif arguments.command == "resolve":
                await operations.resolve_review(
                    tx, arguments.review, arguments.resolution, arguments.actor, arguments.note
                )
            else:
                refund_id = arguments.refund_id or new_id()
                # Said first: if the connection breaks during the commit, only a repetition under the same id is safe.
                _say(f"refund {refund_id}: to be sure, repeat the command with --refund-id and this id")
                await operations.order_refund(
                    tx,
                    arguments.payment,
                    arguments.amount_cents,
                    arguments.actor,
                    arguments.note,
                    arguments.manual,
                    refund_id,
                )
        if arguments.command == "refund":
            _say(f"refund {refund_id} is written down")
    finally:
        await engine.dispose()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m payments.main", description="Stripe and crypto payments.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the service")
    commands.add_parser("migrate", help="bring the schema up to date (PAYMENTS_MIGRATION_DATABASE_URL)")
    commands.add_parser("reviews", help="list what waits for a person's decision")
    resolve = commands.add_parser("resolve", help="decide a review")
    resolve.add_argument("--review", type=UUID, required=True)
    resolve.add_argument("--resolution", choices=["credited", "dismissed"], required=True)
    refund = commands.add_parser("refund", help="give money back, and take the credits")
    refund.add_argument("--payment", type=UUID, required=True)
    refund.add_argument("--amount-cents", type=int, required=True)
    refund.add_argument("--manual", action="store_true", help="it was paid out by hand already (crypto)")
    refund.add_argument("--refund-id", type=UUID, help="makes the command repeatable; by default a new one")
    for command in (resolve, refund):
        command.add_argument("--actor", required=True, help="who decides")
        command.add_argument("--note", required=True, help="why")
    return parser.parse_args()


def main() -> None:
    """Entry point of every command."""
    arguments = _arguments()
    if arguments.command == "migrate":
        migrate("payments")
        return
    settings = settings_from_environment(Settings)
    configure_logging("payments", settings)
    run_process(serve(settings) if arguments.command == "serve" else operate(settings, arguments))


if __name__ == "__main__":
    main()
