"""The settings of the auditor; see ``.env.example``."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of the service. Durations are in seconds unless the name says days."""

    model_config = SettingsConfigDict(env_prefix="AUDITOR_", extra="ignore", frozen=True)

    check_seconds: float = Field(default=30.0, gt=0)
    """How often every invariant is checked; less often where a check takes more than a tenth of that."""
    tolerance_seconds: float = Field(default=60.0, ge=0)
    """How long services may disagree while messages are under way, before it counts as a violation."""
    journal_retention_days: int = Field(default=90, ge=8)


class CommandSettings(BaseSettings):
    """What an operator's command reads from the environment, unless the command line names a platform."""

    model_config = SettingsConfigDict(env_prefix="AUDITOR_", extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: SecretStr | None = None
