"""A gateway that connects to nothing."""

from typing import Any

from gateway.settings import Settings
from local_platform.openapi import UNCONNECTED


def settings(**changed: Any) -> Settings:
    """Its settings."""
    return Settings.model_validate(UNCONNECTED | changed)
