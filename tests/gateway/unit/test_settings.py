"""Settings that must not leave a developer's machine."""

from pathlib import Path

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_only_platforms_of_one_machine_allow_pages_of_localhost() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.suffix in {".py", ".env", ".yaml", ".yml", ".toml"}]
    setting = {path for path in files if "CORS_LOCALHOST" in path.read_text(encoding="utf-8")}
    assert setting, "nothing was searched"
    assert {path.relative_to(DEPLOY).parts[0] for path in setting} == {"local", "compose"}
