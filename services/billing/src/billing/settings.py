"""The settings of billing; see ``.env.example``."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of the service. Durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="BILLING_", extra="ignore", frozen=True)

    sweep_seconds: float = Field(default=5.0, gt=0)
    """How often due grants are expired and the ledger is sealed."""
    max_signup_credits: int = Field(default=0, ge=0)
    """The most that the gateway may have credited for a sign-up. 0: nothing at all."""
    head_seconds: float = Field(default=60.0, ge=0)
    """How long a published head of the ledger stands until the next one: a receipt waits for that."""


class CommandSettings(BaseSettings):
    """The settings of an operator's command: the database, as the service's own role (or, to verify, as any reader).

    The broker, where it is given, knows whether the gateway shows a grant by now.
    """

    model_config = SettingsConfigDict(env_prefix="BILLING_", extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: SecretStr
    nats_url: str | None = None
    nats_user: str = "billing"
    nats_password: SecretStr = SecretStr("")
    nats_ca_file: Path | None = None
