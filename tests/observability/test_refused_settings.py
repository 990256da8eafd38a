"""No service shows a setting that it refuses: it may be a secret in the wrong place."""

import importlib

import pytest

from contracts.message import SERVICES
from service_runtime.settings import ServiceSettings, settings_from_environment
from tests.observability.canaries import CANARY


@pytest.mark.parametrize("service", SERVICES)
def test_a_refused_setting_is_named_and_not_shown(
    service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind: type[ServiceSettings] = importlib.import_module(f"{service}.settings").Settings
    prefix = service.upper()
    for name in kind.model_fields:
        monkeypatch.setenv(f"{prefix}_{name.upper()}", CANARY)
    refused = _said(kind, capsys)
    # One that is read as JSON is refused before the others are looked at.
    for name in kind.model_fields:
        monkeypatch.setenv(f"{prefix}_{name.upper()}", f'["{CANARY}"]')
    refused += _said(kind, capsys)
    assert f"{prefix}_OPS_PORT" in refused
    assert CANARY not in refused


def _said(kind: type[ServiceSettings], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        settings_from_environment(kind)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    return captured.out + captured.err
