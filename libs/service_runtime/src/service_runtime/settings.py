"""What every service must be told. Subclass with the service's own prefix: ``env_prefix="BILLING_"``."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

SHORTEST_SECRET: Final = 8
PLACEHOLDERS: Final = ("change-me", "...")
"""What stands in the examples where a secret belongs."""

Chosen = TypeVar("Chosen", bound=BaseSettings)

RotatingSecrets = Annotated[list[Annotated[SecretStr, Field(min_length=1)]], Field(min_length=1, max_length=2)]
"""The secret that is in use, and the one before it while it is being replaced."""


def settings_from_environment(kind: type[Chosen]) -> Chosen:
    """The settings of a process. Ends it with code 2 if they are refused, naming each variable and never its value."""
    prefix = str(kind.model_config.get("env_prefix", ""))
    try:
        return kind()
    except ValidationError as error:
        refused = [
            f"{prefix}{'.'.join(str(part) for part in one['loc'])}".upper().rstrip("_") + f": {one['msg']}"
            for one in error.errors(include_input=False, include_url=False, include_context=False)
        ]
    except SettingsError as error:
        refused = [str(error)]
    sys.stderr.write("".join(f"{line}\n" for line in refused))
    sys.exit(2)


def database_url_from_environment(service: str) -> str:
    """The connection string of ``service``, for commands that need nothing else. Ends the process if it is not set."""
    variable = f"{service.upper()}_DATABASE_URL"
    dsn = os.environ.get(variable)
    if not dsn:
        sys.stderr.write(f"{variable}: Field required\n")
        sys.exit(2)
    return dsn


class ServiceSettings(BaseSettings):
    """Read from the environment; what has no default must be set, and not to nothing. Durations are in seconds."""

    # What is refused may be a secret, and the refusal is printed. A secret that is set to nothing is not set.
    model_config = SettingsConfigDict(
        env_prefix="", extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    database_url: SecretStr
    """``postgresql://user:password@host:port/database``: a direct or session-mode connection of the run-time role.

    With ``?sslmode=verify-full&sslrootcert=/path/ca.crt`` the server must show a certificate of its name.
    """
    database_pool_size: int = Field(default=10, ge=1)
    database_statement_cache_size: int = Field(default=100, ge=0)
    """Prepared statements kept per connection. 0 where a transaction-mode pooler sits in between."""

    nats_url: str
    nats_user: str
    nats_password: SecretStr
    nats_ca_file: Path | None = None
    """Certificates that may sign the broker's, where it is not one that the system trusts. ``tls://`` asks for TLS."""
    stream_replicas: int = Field(default=1, ge=1, le=5)

    ops_host: str = "0.0.0.0"  # noqa: S104 - a container's listener
    ops_port: int = Field(ge=0, le=65535)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"
    drain_seconds: float = Field(default=20.0, ge=2)
    """The longest that a stop may take, from the signal to the exit."""
    otlp_endpoint: str | None = None
    """Where traces go (OTLP over HTTP), if anywhere: the whole address, such as ``http://collector:4318/v1/traces``."""
    trace_sample_ratio: float = Field(default=0.1, ge=0, le=1)
    """The part of traces that is recorded, where an endpoint is set. A caller's ``traceparent`` decides for its own."""

    @field_validator("*", mode="after")
    @classmethod
    def _secrets_are_secret(cls, value: Any) -> Any:
        for secret in value if isinstance(value, list) else [value]:
            if isinstance(secret, SecretStr):
                _refuse_if_guessable(secret.get_secret_value())
        return value

    @property
    def service(self) -> str:
        """The service's name, from its prefix: ``BILLING_`` is ``billing``."""
        return str(self.model_config.get("env_prefix", "")).rstrip("_").lower() or "reelhouse"


def _refuse_if_guessable(secret: str) -> None:
    """Raises ValueError for what anybody would try first; a connection string is one by its password."""
    if any(placeholder in secret for placeholder in PLACEHOLDERS):
        raise ValueError("this is the example's value, which everybody knows")
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(f"a secret has at least {SHORTEST_SECRET} characters")
