"""The settings of generation. Every variable is prefixed with ``GENERATION_``; secrets have no defaults."""

from datetime import timedelta
from typing import Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.values import Lane
from generation.domain.policy import BreakerPolicy, HealthPolicy, Policy
from service_runtime.backoff import Backoff
from service_runtime.settings import RotatingSecrets, ServiceSettings

REST_BASE: Final = "https://rest.runpod.io"

WorkerKind = Literal["reelhouse", "stock"]


class EndpointSettings(BaseModel):
    """One RunPod endpoint. ``max_active`` counts queued and running jobs there: keep it near the number of workers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    worker: WorkerKind = "reelhouse"
    """``stock``: RunPod's own ``worker-comfyui`` runs there. See ``docs/stock-worker.md``."""
    max_active: int = Field(default=20, ge=1)
    rate_per_second: float = Field(default=50.0, gt=0, le=100)
    """RunPod takes 1000 ``/run`` in 10 s."""
    burst: int = Field(default=50, ge=1, le=1000)


class LaneSettings(BaseModel):
    """One plan's share: orders served in proportion to ``weight``, and a cap on one user's jobs at one endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: int = Field(ge=1, le=1000)
    max_active_per_user: int = Field(ge=1)


def _default_lanes() -> dict[Lane, LaneSettings]:
    return {
        "pro": LaneSettings(weight=6, max_active_per_user=8),
        "standard": LaneSettings(weight=3, max_active_per_user=4),
        "free": LaneSettings(weight=1, max_active_per_user=2),
    }


class CommandSettings(BaseSettings):
    """The settings of an operator's report: any role that reads the schema, and RunPod's key where there is one."""

    model_config = SettingsConfigDict(env_prefix="GENERATION_", extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: SecretStr
    runpod_api_key: SecretStr | None = None
    runpod_rest_base: str = REST_BASE


class Settings(ServiceSettings):
    """All durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="GENERATION_")

    http_host: str = "0.0.0.0"  # noqa: S104 - a container's listener
    http_port: int = Field(ge=0, le=65535)

    runpod_api_base: str = "https://api.runpod.ai"
    runpod_rest_base: str = REST_BASE
    """RunPod's management API: how many workers an endpoint may have, and the bill."""
    runpod_api_key: SecretStr
    runpod_timeout_seconds: float = Field(default=10.0, gt=0)
    endpoints: dict[str, EndpointSettings]
    """Logical name (as the catalogue's models use it) to RunPod endpoint."""
    health_interval_seconds: float = Field(default=60.0, gt=0)
    """How often RunPod is asked about each endpoint, by one of the replicas."""
    keep_alive_seconds: float | None = Field(default=None, gt=0)
    """After so long without orders an endpoint gets a job that does nothing. RunPod lowers the workers of an endpoint
    without requests to 2 after 3 days and to 0 after 7; two days (172800) prevent both. Off by default: it costs a
    cold start each time."""
    lanes: dict[Lane, LaneSettings] = Field(default_factory=_default_lanes)

    callback_base_url: str
    """Where RunPod and the workers reach this service's listener from outside."""
    callback_secrets: RotatingSecrets
    """The first signs; both are accepted. To rotate, put the new one in front and drop the old one a day later."""
    callback_retention_seconds: float = Field(default=7 * 86400.0, gt=0)

    s3_endpoint_url: str
    s3_public_endpoint_url: str | None = None
    """The object store's address as workers reach it, where that is another one."""
    s3_region: str = "auto"
    s3_access_key_id: str
    s3_secret_access_key: SecretStr
    s3_incoming_bucket: str = "incoming"
    s3_uploads_bucket: str = "uploads"

    submit_concurrency: int = Field(default=32, ge=1, le=200)
    """Submissions in flight in this process, an equal share for each endpoint; RunPod takes 200 at a time."""
    poll_seconds: float = Field(default=1.0, gt=0)
    """How often the loops poll without being woken."""
    lease_seconds: float = Field(default=20.0, gt=0)
    """How long a submission may stay without a recorded answer, and the longest call of the provider.

    Longer than ``runpod_timeout_seconds``, which bounds each wait for the next byte."""
    breaker_threshold: int = Field(default=5, ge=1)
    breaker_first_seconds: float = Field(default=2.0, gt=0)
    breaker_longest_seconds: float = Field(default=30.0, gt=0)

    max_attempts: int = Field(default=3, ge=1)
    retry_backoff_seconds: float = Field(default=2.0, gt=0)
    retry_backoff_longest_seconds: float = Field(default=60.0, gt=0)
    ambiguous_wait_seconds: float = Field(default=45.0, gt=0)
    """How long to wait, from its submission on, for a sign of a job whose submission had no answer."""
    sweep_first_seconds: float = Field(default=20.0, gt=0)
    sweep_interval_seconds: float = Field(default=20.0, gt=0)
    """RunPod keeps results for 30 minutes."""
    cancel_timeout_seconds: float = Field(default=45.0, gt=0)
    storing_timeout_seconds: float = Field(default=600.0, gt=0)
    seek_timeout_seconds: float = Field(default=300.0, gt=0)
    """How long storage may take to look a file up."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.lease_seconds <= self.runpod_timeout_seconds:
            raise ValueError("lease_seconds must be longer than runpod_timeout_seconds")
        if self.retry_backoff_longest_seconds < self.retry_backoff_seconds:
            raise ValueError("retry_backoff_longest_seconds must not be shorter than retry_backoff_seconds")
        if self.breaker_longest_seconds < self.breaker_first_seconds:
            raise ValueError("breaker_longest_seconds must not be shorter than breaker_first_seconds")
        if set(self.lanes) != set(get_args(Lane)):
            raise ValueError(f"lanes must name each of {', '.join(get_args(Lane))}")
        return self

    @property
    def lane_weights(self) -> dict[Lane, int]:
        """Each lane's share of an endpoint."""
        return {lane: share.weight for lane, share in self.lanes.items()}

    @property
    def active_caps(self) -> dict[Lane, int]:
        """For each lane, how many jobs one user may have at one endpoint."""
        return {lane: share.max_active_per_user for lane, share in self.lanes.items()}

    @property
    def health(self) -> HealthPolicy:
        """How endpoints are looked after."""
        return HealthPolicy(self.health_interval_seconds, self.keep_alive_seconds)

    @property
    def breaker(self) -> BreakerPolicy:
        """When an endpoint is paused. There is one row and one probe, so the pauses need no jitter."""
        pauses = Backoff(
            first=timedelta(seconds=self.breaker_first_seconds),
            longest=timedelta(seconds=self.breaker_longest_seconds),
            jitter=0,
        )
        return BreakerPolicy(self.breaker_threshold, pauses)

    @property
    def policy(self) -> Policy:
        """What bounds an order."""
        return Policy(
            max_attempts=self.max_attempts,
            retry_backoff=Backoff(
                first=timedelta(seconds=self.retry_backoff_seconds),
                longest=timedelta(seconds=self.retry_backoff_longest_seconds),
                factor=4,
            ),
            ambiguous_wait=timedelta(seconds=self.ambiguous_wait_seconds),
            first_check=timedelta(seconds=self.sweep_first_seconds),
            check_interval=timedelta(seconds=self.sweep_interval_seconds),
            cancel_timeout=timedelta(seconds=self.cancel_timeout_seconds),
            storing_timeout=timedelta(seconds=self.storing_timeout_seconds),
            lookup_timeout=timedelta(seconds=self.seek_timeout_seconds),
        )
