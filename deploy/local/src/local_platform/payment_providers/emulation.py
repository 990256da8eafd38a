"""What every emulator of a payment provider has in common, so that one table can hold them all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.applications import Starlette

from local_platform.payment_providers.webhooks import WebhookSender


@dataclass(frozen=True, kw_only=True)
class Account:
    """One account at an emulated provider. The emulator starts with it, and payments gets the same values.

    ``url`` is the emulator's own address and ``webhook_url`` where its webhooks go. ``name`` is what the provider
    calls the account besides its key (a store, an e-mail address); ``password`` belongs to it, where there is one.
    """

    url: str
    api_key: str
    webhook_url: str
    webhook_secret: str
    name: str
    password: str


class Emulator(Protocol):
    """One running account. Each emulator has more switches of its own."""

    @property
    def sender(self) -> WebhookSender:
        """What delivers its webhooks."""
        ...

    def app(self) -> Starlette:
        """The provider's API, its pay page, and the emulator's switches under ``/admin``."""
        ...

    def pay_in_full(self, reference: str) -> None:
        """The buyer of the checkout ``reference`` pays the whole price, and the money is confirmed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """How one provider is emulated. ``settings`` are the variables with which payments uses the account."""

    account_name: str
    build: Callable[[Account], Emulator]
    settings: Callable[[Account], Mapping[str, str]]
