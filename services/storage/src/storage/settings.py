"""The settings of storage. Each variable starts with ``STORAGE_``. Secrets have no defaults."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from service_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """The object store and the limits of concurrent work."""

    model_config = SettingsConfigDict(env_prefix="STORAGE_")

    s3_endpoint_url: str
    s3_region: str = "auto"
    s3_access_key_id: SecretStr
    s3_secret_access_key: SecretStr
    s3_incoming_bucket: str = "incoming"
    s3_uploads_bucket: str = "uploads"
    s3_library_bucket: str = "library"

    concurrency: int = Field(default=16, ge=1, le=64)
    """Outputs that are verified at a time, and as many uploads. Each takes its size in temporary disk space."""
    decoder_processes: int = Field(default=2, ge=1, le=32)
    """Decoder processes for outputs, and as many again for uploads."""
    poll_seconds: float = Field(default=2.0, gt=0)
