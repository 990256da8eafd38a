"""Settings that must not leave a developer's machine."""

from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[3] / "deploy"
ALLOWED = {
    "CORS_LOCALHOST": {"local", "compose", "k8s/overlays/local"},
    "PLAYGROUND_DIRECTORY": {"local"},
}
"""The folders of platforms of one machine that may use a setting."""


@pytest.mark.parametrize("setting", ALLOWED)
def test_a_setting_for_developers_is_used_on_platforms_of_one_machine_only(setting: str) -> None:
    files = [path for path in DEPLOY.rglob("*") if path.suffix in {".py", ".env", ".yaml", ".yml", ".toml"}]
    using = [path.relative_to(DEPLOY).as_posix() for path in files if setting in path.read_text(encoding="utf-8")]
    places = {place for place in ALLOWED[setting] for path in using if path.startswith(f"{place}/")}
    assert places == ALLOWED[setting], "what is allowed is used"
    assert not [path for path in using if not path.startswith(tuple(f"{place}/" for place in places))]
