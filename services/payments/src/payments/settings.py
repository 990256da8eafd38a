"""The settings of payments. Every name is prefixed with ``PAYMENTS_``; secrets have no defaults."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from contracts.payments import PROVIDERS, Provider
from service_runtime.settings import RotatingSecrets, ServiceSettings

T = TypeVar("T")

REQUIRED_SETTINGS: Final[Mapping[Provider, Sequence[str]]] = {
    "stripe": ("stripe_api_key", "stripe_webhook_secrets"),
    "btcpay": ("btcpay_url", "btcpay_api_key", "btcpay_store_id", "btcpay_webhook_secrets"),
    "nowpayments": (
        "nowpayments_api_key",
        "nowpayments_ipn_secrets",
        "nowpayments_email",
        "nowpayments_password",
    ),
}
"""Without these a provider is not offered."""


class Settings(ServiceSettings):
    """A provider is offered if all of its required settings are there, and refused if only some are."""

    model_config = SettingsConfigDict(env_prefix="PAYMENTS_")

    http_host: str = "0.0.0.0"  # noqa: S104 - a container's listener
    http_port: int
    public_base_url: str
    """Where providers reach this service's ``/webhooks/{provider}``."""
    checkout_success_url: str
    checkout_cancel_url: str

    max_open_payments: int = Field(default=5, ge=1)
    payment_lifetime_seconds: int = Field(default=3600, ge=1920, le=86400)
    """Stripe refuses a checkout of less than 30 minutes, counted from when it is asked."""
    poll_seconds: float = Field(default=5.0, gt=0)
    events_sweep_seconds: float = Field(default=180.0, gt=0)
    compare_sweep_seconds: float = Field(default=86400.0, gt=0)

    stripe_api_key: SecretStr | None = None
    stripe_webhook_secrets: RotatingSecrets | None = None
    stripe_api_base: str | None = None

    btcpay_url: str | None = None
    btcpay_api_key: SecretStr | None = None
    btcpay_store_id: str | None = None
    btcpay_webhook_secrets: RotatingSecrets | None = None

    nowpayments_url: str = "https://api.nowpayments.io"
    nowpayments_api_key: SecretStr | None = None
    nowpayments_ipn_secrets: RotatingSecrets | None = None
    nowpayments_email: str | None = None
    nowpayments_password: SecretStr | None = None

    @model_validator(mode="after")
    def _providers_are_complete(self) -> "Settings":
        for provider, names in REQUIRED_SETTINGS.items():
            missing = [f"PAYMENTS_{name.upper()}" for name in names if getattr(self, name) is None]
            if missing and len(missing) < len(names):
                raise ValueError(f"{provider} is configured by half: set {', '.join(missing)}, or none of its settings")
        return self

    def offered_providers(self) -> tuple[Provider, ...]:
        """The providers whose required settings are there."""
        return tuple(
            provider
            for provider in PROVIDERS
            if all(getattr(self, name) is not None for name in REQUIRED_SETTINGS[provider])
        )


def required(value: T | None) -> T:
    """A setting of a provider that is offered: the validation above has seen that it is there."""
    assert value is not None
    return value


def plain_secrets(secrets: RotatingSecrets | None) -> tuple[str, ...]:
    """One secret or, while it rotates, two, to be compared with what a sender proves."""
    return tuple(secret.get_secret_value() for secret in required(secrets))
