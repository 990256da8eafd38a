"""What the command line makes of its arguments."""

from typing import Any

import pytest

from local_platform import commands
from local_platform.supervisor import PlatformOptions


def test_settings_of_workers_reach_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[PlatformOptions] = []

    async def run_platform(options: PlatformOptions, *_: Any, **__: Any) -> int:
        started.append(options)
        return 0

    monkeypatch.setattr(commands, "run_platform", run_platform)
    settings = ["--worker", "RENDERER=comfyui", "--worker", "COMFYUI_ARGUMENTS=--cpu --base-directory=/base"]
    assert commands.main(["up", "--workers", "2", *settings]) == 0
    expected = {"RENDERER": "comfyui", "COMFYUI_ARGUMENTS": "--cpu --base-directory=/base"}
    assert started[0].environment == {"worker-1": expected, "worker-2": expected}


@pytest.mark.parametrize("setting", ["RENDERER", "=comfyui"])
def test_setting_without_a_name_or_a_value_is_refused(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["up", "--worker", setting])
    assert "is not like RENDERER=comfyui" in capsys.readouterr().err
