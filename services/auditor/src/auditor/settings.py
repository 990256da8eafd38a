"""The settings of the auditor; see ``.env.example``."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of the service. Durations are in seconds unless the name says days."""

    model_config = SettingsConfigDict(env_prefix="AUDITOR_", extra="ignore", frozen=True)

    s3_endpoint_url: str
    s3_public_endpoint_url: str | None = None
    """Where the operator reaches the object store, if not at ``s3_endpoint_url``; only for links."""
    s3_region: str = "auto"
    s3_access_key_id: SecretStr
    """Of a token that may read and list the library, and nothing else."""
    s3_secret_access_key: SecretStr
    s3_library_bucket: str = "library"

    library_objects_per_second: float = Field(default=10.0, gt=0)
    """How many objects of the library a replica reads, on average: 24 million in four weeks."""
    library_bytes_per_second: float = Field(default=20_000_000.0, gt=0)
    """How much of the library a replica reads, on average: 48 TB in four weeks."""
    library_grace_seconds: float = Field(default=86_400.0, ge=0)
    """How long an object may lie in the library before it counts as one that no order knows."""

    check_seconds: float = Field(default=30.0, gt=0)
    """How often every invariant is checked; less often where a check takes more than a tenth of that."""
    tolerance_seconds: float = Field(default=60.0, ge=0)
    """How long services may disagree while messages are under way, before it counts as a violation."""
    journal_retention_days: int = Field(default=90, ge=8)


class CommandSettings(BaseSettings):
    """What an operator's command reads from the environment, unless the command line names a platform."""

    model_config = SettingsConfigDict(env_prefix="AUDITOR_", extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: SecretStr | None = None
    s3_endpoint_url: str | None = None
    s3_public_endpoint_url: str | None = None
    s3_region: str = "auto"
    s3_access_key_id: SecretStr | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_library_bucket: str = "library"
