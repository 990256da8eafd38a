"""What a service says when it is told too little, or nonsense."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service_runtime.settings import PLACEHOLDERS
from tests.service_runtime.settings import ProbeSettings, settings


def test_settings_that_are_refused_are_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_NATS_PASSWORD", "pa55word")
    monkeypatch.setenv("PROBE_OPS_PORT", "an0ther-secret-in-the-wrong-place")
    with pytest.raises(ValidationError) as caught:
        ProbeSettings()
    said = str(caught.value)
    assert "database_url" in said
    assert "ops_port" in said
    assert "pa55word" not in said
    assert "an0ther" not in said


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = {
        "DATABASE_URL": "postgresql://x",
        "NATS_URL": "x",
        "NATS_USER": "x",
        "NATS_PASSWORD": "a-password",
        "OPS_PORT": "0",
    }
    for name, value in {**complete, "OTLP_ENDPOINT": ""}.items():
        monkeypatch.setenv(f"PROBE_{name}", value)
    assert ProbeSettings().otlp_endpoint is None
    monkeypatch.setenv("PROBE_NATS_PASSWORD", "")
    with pytest.raises(ValidationError, match="nats_password"):
        ProbeSettings()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("nats_password", "x"),
        ("nats_password", "seven.7"),
        ("nats_password", "change-me"),
        ("database_url", "postgresql://probe:change-me@db/reelhouse"),
    ],
)
def test_a_secret_that_anybody_would_try_is_refused_by_name(setting: str, value: str) -> None:
    with pytest.raises(ValidationError, match=setting) as refused:
        settings(**{setting: value})
    assert value not in str(refused.value)


def test_every_secret_of_the_examples_is_refused() -> None:
    root = Path(__file__).parents[3]
    for example in root.glob("services/*/.env.example"):
        for name, value in re.findall(
            r"^(?:# )?(\w*(?:PASSWORD|SECRET|API_KEY|ACCESS_KEY)\w*)=(.+)$", example.read_text(), re.M
        ):
            assert any(placeholder in value for placeholder in PLACEHOLDERS), (example, name)
