"""The emulated providers of a test, over real HTTP, and the settings with which payments uses them."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from contracts.payments import PROVIDERS, Provider
from local_platform.payment_providers.btcpay_emulator import BtcPayEmulator
from local_platform.payment_providers.emulation import Account, Emulator
from local_platform.payment_providers.nowpayments_emulator import NowPaymentsEmulator
from local_platform.payment_providers.stripe_emulator import StripeEmulator
from local_platform.payment_providers.table import EMULATIONS
from tests.support.serving import listening_socket, serving

SECRET = "whsec_first"
ROTATED = "whsec_second"
THANKS = "http://front/thanks"

Kind = TypeVar("Kind")


@dataclass
class Emulators:
    """One account at each provider."""

    accounts: dict[Provider, Account]
    running: dict[Provider, Emulator]

    @property
    def stripe(self) -> StripeEmulator:
        return _as(StripeEmulator, self.running["stripe"])

    @property
    def btcpay(self) -> BtcPayEmulator:
        return _as(BtcPayEmulator, self.running["btcpay"])

    @property
    def nowpayments(self) -> NowPaymentsEmulator:
        return _as(NowPaymentsEmulator, self.running["nowpayments"])

    @property
    def idle(self) -> bool:
        """Whether no webhook is under way."""
        return all(emulator.sender.idle for emulator in self.running.values())

    def settings(self) -> dict[str, Any]:
        """The settings of payments that name these accounts; each list of secrets has a rotated one in front."""
        settings: dict[str, Any] = {"checkout_success_url": THANKS, "checkout_cancel_url": "http://front/credits"}
        for provider, account in self.accounts.items():
            for variable, value in EMULATIONS[provider].settings(account).items():
                is_list = value.startswith("[")
                name = variable.removeprefix("PAYMENTS_").lower()
                settings[name] = [ROTATED, *json.loads(value)] if is_list else value
        return settings


@asynccontextmanager
async def emulated_providers(payments_url: str) -> AsyncIterator[Emulators]:
    """Run one emulator of each provider; their webhooks go to ``payments_url``."""
    emulators = Emulators({}, {})
    async with AsyncExitStack() as stack:
        for provider in PROVIDERS:
            listener, url = listening_socket()
            account = Account(
                url=url,
                api_key=f"key_of_{provider}",
                webhook_url=f"{payments_url}/webhooks/{provider}",
                webhook_secret=SECRET,
                name=EMULATIONS[provider].account_name,
                password="password-of-the-account",
            )
            emulator = EMULATIONS[provider].build(account)
            await stack.enter_async_context(serving(emulator.app(), listener))
            emulators.accounts[provider] = account
            emulators.running[provider] = emulator
        yield emulators


def _as(kind: type[Kind], emulator: object) -> Kind:
    assert isinstance(emulator, kind)
    return emulator
