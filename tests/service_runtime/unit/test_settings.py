"""What a service says when it is told too little, or nonsense."""

import pytest
from pydantic import ValidationError

from tests.service_runtime.settings import ProbeSettings


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
    complete = {"DATABASE_URL": "x", "NATS_URL": "x", "NATS_USER": "x", "NATS_PASSWORD": "x", "OPS_PORT": "0"}
    for name, value in {**complete, "OTLP_ENDPOINT": ""}.items():
        monkeypatch.setenv(f"PROBE_{name}", value)
    assert ProbeSettings().otlp_endpoint is None
    monkeypatch.setenv("PROBE_NATS_PASSWORD", "")
    with pytest.raises(ValidationError, match="nats_password"):
        ProbeSettings()
