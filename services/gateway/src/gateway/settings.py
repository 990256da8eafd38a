"""The gateway's settings. Every name is prefixed with ``GATEWAY_``; secrets have no defaults."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import get_args

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from contracts.object_keys import MAX_UPLOAD_BYTES
from contracts.values import Lane
from service_runtime.settings import ServiceSettings


def _default_running_cancels() -> dict[Lane, int]:
    return {"pro": 30, "standard": 10, "free": 3}


class Settings(ServiceSettings):
    """Durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    http_host: str = "0.0.0.0"  # noqa: S104 - a container's listener
    http_port: int
    cors_origins: list[str] = Field(default_factory=list)
    """Origins of the frontend, which call the API and are returned to from a checkout; none by default."""
    cors_localhost: bool = False
    """Allow pages from any port of ``localhost`` and ``127.0.0.1``, too. Only for a developer's machine."""

    playground_directory: Path | None = None
    """The folder of `clients/playground`, to serve it under `/playground/`. Only for a developer's machine."""
    docs: bool = True
    """Serve ``/docs``, the page to try the API. ``/openapi.json`` is always there: clients are made from it."""

    jwt_issuer: str
    """``https://<project>.supabase.co/auth/v1``."""
    jwt_audience: str = "authenticated"
    jwks_url: str | None = None
    """``https://<project>.supabase.co/auth/v1/.well-known/jwks.json``: the keys of tokens in ES256 and RS256."""
    jwt_secret: SecretStr | None = None
    """The legacy way of signing (HS256). With both, tokens of both are taken: so a project moves without a flag day."""
    allow_anonymous_users: bool = False
    """Take tokens of Supabase's anonymous sign-in, whose users can be made without end."""

    s3_endpoint_url: str
    s3_public_endpoint_url: str | None = None
    """Where browsers reach the buckets, if that differs from where the service does."""
    s3_region: str = "auto"
    s3_access_key_id: SecretStr
    s3_secret_access_key: SecretStr
    s3_library_bucket: str = "library"
    s3_uploads_bucket: str = "uploads"

    verdict_wait_seconds: float = Field(default=3.0, gt=0, le=30)
    checkout_wait_seconds: float = Field(default=10.0, gt=0, le=30)
    download_url_seconds: int = Field(default=600, ge=60, le=600)
    upload_url_seconds: int = Field(default=600, ge=60, le=3600)
    event_streams_per_user: int = Field(default=5, ge=1)
    heartbeat_seconds: float = Field(default=15.0, gt=0)
    max_open_generations: int = Field(default=200, ge=1)
    max_uploads_per_day: int = Field(default=200, ge=1)
    """Of one user, in any 24 hours."""
    max_upload_bytes_per_day: int = Field(default=2 * 1024**3, ge=MAX_UPLOAD_BYTES)
    """Of one user, in any 24 hours."""
    signup_credits: int = Field(default=0, ge=0)
    """What a new user is credited with at their first request. 0: nothing. Billing must allow as much."""
    max_signups_per_day: int = Field(default=500, ge=1)
    """How many users, all together, are credited for their sign-up in any 24 hours: so much made-up ones can cost."""
    uploads_need_credits: bool = False
    """Take files only from users who ever bought or were granted credits."""
    running_cancels_per_day: dict[Lane, int] = Field(default_factory=_default_running_cancels)
    """By plan: how much work that a worker has one user may cancel in any 24 hours, at once or by a time to begin."""
    writes_per_minute: int = Field(default=120, ge=1)
    """Of one user: the size of a token bucket, which refills evenly."""
    reads_per_minute: int = Field(default=1200, ge=1)
    """Requests of one user at one replica, whatever they ask for: what writes reads, too."""
    quotes_per_minute: int = Field(default=300, ge=1)
    """Of one user at one replica."""
    anonymous_requests_per_minute: int = Field(default=600, ge=1)
    """Of one address at one replica: requests without a user, and tokens that were refused."""
    verified_files_per_minute: int = Field(default=20, ge=1)
    """Files that one address may send to one replica to have them verified. Checksums count as any request."""
    verified_file_max_bytes: int = Field(default=260 * 1024**2, ge=1024)
    """The largest file that is taken for that: at least as large as the largest output with its mark."""
    trusted_proxies: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Addresses whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed. Nobody's, by default."""

    @model_validator(mode="after")
    def _tokens_can_be_verified(self) -> "Settings":
        if self.jwt_secret is None and self.jwks_url is None:
            raise ValueError("tokens are verified with jwks_url or jwt_secret: set one, or both")
        return self

    @model_validator(mode="after")
    def _every_plan_has_its_allowance(self) -> "Settings":
        if set(self.running_cancels_per_day) != set(get_args(Lane)):
            raise ValueError(f"running_cancels_per_day must name each of {', '.join(get_args(Lane))}")
        if min(self.running_cancels_per_day.values()) < 0:
            raise ValueError("running_cancels_per_day must not be negative")
        return self
