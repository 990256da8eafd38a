"""How an operator's command ends where the database is away."""

from collections.abc import Callable, Sequence

import asyncpg
import pytest

from auditor.main import main as auditor
from billing.main import main as billing
from gateway.main import main as gateway
from messaging.command_line import run_command

Main = Callable[[Sequence[str]], None]


@pytest.mark.parametrize(
    ("main", "prefix", "arguments"),
    [
        (auditor, "AUDITOR", ["check"]),
        (auditor, "AUDITOR", ["show", "7b0f2a52-6a39-4f0e-9b77-0a4f6d6f3c11"]),
        (billing, "BILLING", ["verify"]),
        (billing, "BILLING", ["migrate", "--check"]),
        (gateway, "GATEWAY", ["archive"]),
    ],
)
def test_a_database_that_is_away_is_said_in_one_line(
    main: Main, prefix: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{prefix}_DATABASE_URL", "postgresql://nobody:nothing@127.0.0.1:1/none")
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr().err if isinstance(end.value.code, int) else str(end.value.code)
    assert end.value.code not in (0, None)
    assert "the database is not available" in said
    assert len(said.strip().splitlines()) == 1


def test_an_error_of_the_command_itself_is_raised() -> None:
    async def command() -> int:
        raise asyncpg.UndefinedTableError("billing.users does not exist")

    with pytest.raises(asyncpg.UndefinedTableError):
        run_command(command())


def test_a_command_ends_with_its_own_code() -> None:
    async def command() -> int:
        return 3

    with pytest.raises(SystemExit) as end:
        run_command(command())
    assert end.value.code == 3
