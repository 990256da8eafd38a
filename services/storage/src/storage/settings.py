"""The settings of storage. Each variable starts with ``STORAGE_``. Secrets have no defaults."""

from typing import Literal

from pydantic import Field, SecretStr, model_validator
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

    marking: Literal["required", "off"] = "required"
    """``off``: files are delivered without the mark that says that AI made them."""
    marking_key: SecretStr | None = None
    """The key that signs the marks, on P-256, in PEM."""
    marking_certificates: str | None = None
    """The certificate of the key and those above it, in PEM, the key's own first."""

    previews: Literal["on", "off"] = "on"
    """``off``: no thumbnails and no animated previews are made of what is stored from now on."""

    @model_validator(mode="after")
    def _marking_is_decided(self) -> "Settings":
        given = [self.marking_key is not None, self.marking_certificates is not None]
        if self.marking == "required" and not all(given):
            raise ValueError(
                "files are marked with marking_key and marking_certificates: set both,"
                " or marking=off to deliver unmarked files"
            )
        if self.marking == "off" and any(given):
            raise ValueError("marking=off contradicts marking_key and marking_certificates: set one or the other")
        return self
