"""Writes the description of the public API: ``python -m local_platform.openapi docs/openapi.json``.

Clients are generated from that file, so it is the same wherever the gateway runs: no setting is part of it.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from gateway.main import build
from gateway.settings import Settings

UNCONNECTED: Final = {
    "database_url": "postgresql://unused",
    "nats_url": "nats://unused",
    "nats_user": "gateway",
    "nats_password": "unused-here",
    "ops_port": 0,
    "http_port": 0,
    "jwt_issuer": "https://unused",
    "jwks_url": "https://unused",
    "s3_endpoint_url": "http://unused",
    "s3_access_key_id": "unused-here",
    "s3_secret_access_key": "unused-here",
}
"""Settings of a gateway that is built and never run."""


def describe_api() -> dict[str, Any]:
    """What every gateway serves at ``/openapi.json``."""
    return build(Settings.model_validate(UNCONNECTED)).app.openapi()


def render() -> str:
    """The file as it is committed."""
    return json.dumps(describe_api(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
