"""What payments must be told. Every name is prefixed with ``PAYMENTS_``; secrets have no defaults."""

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from service_runtime.settings import RotatingSecrets, ServiceSettings


class Settings(ServiceSettings):
    """A provider is offered when its credentials are set, and refused where they are set by half."""

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
    def _providers_are_whole(self) -> "Settings":
        groups = {
            "stripe": (self.stripe_api_key, self.stripe_webhook_secrets),
            "btcpay": (self.btcpay_url, self.btcpay_api_key, self.btcpay_store_id, self.btcpay_webhook_secrets),
            "nowpayments": (
                self.nowpayments_api_key,
                self.nowpayments_ipn_secrets,
                self.nowpayments_email,
                self.nowpayments_password,
            ),
        }
        for name, parts in groups.items():
            if any(part is not None for part in parts) and any(part is None for part in parts):
                raise ValueError(f"{name} is configured by half: set all of its settings or none")
        return self
