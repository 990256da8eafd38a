"""Settings of a service that exists only in these tests."""

from typing import Any

from pydantic_settings import SettingsConfigDict

from service_runtime.settings import ServiceSettings


class ProbeSettings(ServiceSettings):
    """The service is called ``probe``."""

    model_config = SettingsConfigDict(env_prefix="PROBE_")


def settings(**changes: Any) -> ProbeSettings:
    """Complete settings that reach nothing, unless ``changes`` say otherwise."""
    values: dict[str, Any] = {
        "database_url": "postgresql://probe:nothing@127.0.0.1:1/none",
        "nats_url": "nats://127.0.0.1:1",
        "nats_user": "probe",
        "nats_password": "nothing-here",
        "ops_host": "127.0.0.1",
        "ops_port": 0,
        "drain_seconds": 5,
    }
    return ProbeSettings(**(values | changes))
