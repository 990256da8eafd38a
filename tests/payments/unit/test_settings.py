"""Settings of payments that must be refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from contracts.payments import Provider
from payments.settings import REQUIRED_SETTINGS, Settings

COMPLETE: dict[str, Any] = {
    "database_url": "postgresql://localhost/reelhouse",
    "nats_url": "nats://localhost",
    "nats_user": "payments",
    "nats_password": "nats-password",
    "ops_port": 0,
    "http_port": 0,
    "public_base_url": "https://pay.example.com",
    "checkout_success_url": "https://example.com/thanks",
    "checkout_cancel_url": "https://example.com/credits",
    "stripe_api_key": "rk_test_key",
    "stripe_webhook_secrets": ["new-secret", "old-secret"],
}


def test_a_provider_whose_settings_are_complete_is_taken() -> None:
    assert Settings(**COMPLETE).service == "payments"


@pytest.mark.parametrize(
    "secrets", [["new-secret", ""], [""], [], ["new-secret", "old-secret", "older-secret"], ["short"], ["whsec_..."]]
)
def test_a_secret_that_anybody_could_guess_proves_no_webhook(secrets: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**COMPLETE | {"stripe_webhook_secrets": secrets})
    assert "stripe_webhook_secrets" in str(caught.value)


@pytest.mark.parametrize(
    ("provider", "missing"), [(provider, name) for provider, names in REQUIRED_SETTINGS.items() for name in names]
)
def test_a_provider_that_is_configured_by_half_is_refused(provider: Provider, missing: str) -> None:
    values = {
        name: ["a-secret-value"] if name.endswith("_secrets") else "some-value"
        for name in REQUIRED_SETTINGS[provider]
        if name != missing
    }
    with pytest.raises(
        ValidationError, match=f"{provider} is configured by half: set PAYMENTS_{missing.upper()}, or none"
    ):
        Settings(**COMPLETE | values | {missing: None})


def test_only_providers_with_complete_settings_are_offered() -> None:
    assert Settings(**COMPLETE).offered_providers() == ("stripe",)
