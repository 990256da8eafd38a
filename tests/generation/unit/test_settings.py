"""Settings of generation that must be refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from generation.settings import Settings

COMPLETE: dict[str, Any] = {
    "database_url": "postgresql://localhost/reelhouse",
    "nats_url": "nats://localhost",
    "nats_user": "generation",
    "nats_password": "nats-password",
    "ops_port": 0,
    "http_port": 0,
    "runpod_api_key": "rpa_a_key",
    "endpoints": {"video": {"id": "video-ep"}},
    "callback_base_url": "https://callbacks.example.com",
    "callback_secrets": ["new-secret", "old-secret"],
    "s3_endpoint_url": "https://s3.example.com",
    "s3_access_key_id": "access-key",
    "s3_secret_access_key": "secret-key",
}


def test_complete_settings_are_taken() -> None:
    assert Settings(**COMPLETE).service == "generation"


@pytest.mark.parametrize(
    "secrets", [["new-secret", ""], [""], [], ["new-secret", "old-secret", "older-secret"], ["x"], ["change-me"]]
)
def test_a_secret_that_is_empty_signs_no_callback(secrets: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**COMPLETE | {"callback_secrets": secrets})
    assert "callback_secrets" in str(caught.value)
    assert "older-secret" not in str(caught.value)
