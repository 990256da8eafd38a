"""What the command line makes of its arguments."""

from typing import Any

import pytest

from local_platform import commands
from local_platform.servers import ports
from local_platform.servers.ports import free_port
from local_platform.supervisor import PlatformOptions
from tests.support.serving import listening_socket


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[PlatformOptions]:
    """What platforms were started with."""
    options: list[PlatformOptions] = []

    async def run_platform(one: PlatformOptions, *_: Any, **__: Any) -> int:
        options.append(one)
        return 0

    monkeypatch.setattr(commands, "run_platform", run_platform)
    return options


def test_settings_of_workers_reach_each_of_them(started: list[PlatformOptions]) -> None:
    settings = ["--worker", "RENDERER=comfyui", "--worker", "COMFYUI_ARGUMENTS=--cpu --base-directory=/base"]
    assert commands.main(["up", "--workers", "2", *settings]) == 0
    expected = {"RENDERER": "comfyui", "COMFYUI_ARGUMENTS": "--cpu --base-directory=/base"}
    assert started[0].environment == {"worker-1": expected, "worker-2": expected}


@pytest.mark.parametrize("setting", ["RENDERER", "=comfyui"])
def test_setting_without_a_name_or_a_value_is_refused(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["up", "--worker", setting])
    assert "is not like RENDERER=comfyui" in capsys.readouterr().err


def test_a_platform_has_its_usual_ports_unless_they_are_taken_or_given(
    started: list[PlatformOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, _ = listening_socket()
    taken = listener.getsockname()[1]
    monkeypatch.setattr(ports, "_USUAL", {"gateway": free_port(), "s3": taken, "identity": free_port()})
    usual = ports._USUAL
    commands.main(["up"])
    assert started[0].ports == {"gateway": usual["gateway"], "identity": usual["identity"]}
    commands.main(["up", "--port", f"payments={usual['gateway']}", "--port", "identity=9"])
    assert started[1].ports == {"payments": usual["gateway"], "identity": 9}
    listener.close()


def test_the_log_is_printed_only_to_those_who_ask(started: list[PlatformOptions]) -> None:
    commands.main(["up"])
    commands.main(["up", "--logs"])
    assert [options.follow_logs for options in started] == [False, True]
