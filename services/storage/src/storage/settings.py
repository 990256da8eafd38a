"""What storage must be told. Every name is prefixed with ``STORAGE_``; secrets have no defaults."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from service_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """The buckets, and how much is done at a time."""

    model_config = SettingsConfigDict(env_prefix="STORAGE_")

    s3_endpoint_url: str
    s3_region: str = "auto"
    s3_access_key_id: SecretStr
    s3_secret_access_key: SecretStr
    s3_incoming_bucket: str = "incoming"
    s3_uploads_bucket: str = "uploads"
    s3_library_bucket: str = "library"

    concurrency: int = Field(default=16, ge=1, le=64)
    """Outputs looked at at a time, and as many users' uploads; each may take its size in temporary disk space."""
    decoder_processes: int = Field(default=2, ge=1, le=32)
    """For outputs, and as many again for uploads."""
    poll_seconds: float = Field(default=2.0, gt=0)
