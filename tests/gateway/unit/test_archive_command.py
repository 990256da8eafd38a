"""What the command ``archive`` says, and how it ends, when the database does not let it finish."""

import argparse
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from gateway import commands
from gateway.archiving import Archived

ARGUMENTS = argparse.Namespace(command="archive", older_than_days=90)
CLOSED_PORT = "postgresql://gateway@127.0.0.1:1/reelhouse"


@pytest.fixture(autouse=True)
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", CLOSED_PORT)


def fails_in_the_second_step(monkeypatch: pytest.MonkeyPatch, error: asyncpg.PostgresError) -> None:
    async def archive(_engine: object, _min_age_days: int) -> AsyncIterator[Archived]:
        yield Archived(orders=3, entries=12)
        raise DBAPIError("SELECT …", {}, error)

    monkeypatch.setattr(commands, "archive", archive)


async def test_a_step_that_waits_too_long_for_a_lock_ends_the_command_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = asyncpg.LockNotAvailableError("canceling statement due to lock timeout\nCONTEXT: a function")
    fails_in_the_second_step(monkeypatch, error)
    assert await commands.run(ARGUMENTS) == 1
    told = capsys.readouterr()
    assert told.out == "so far: 12 entries of 3 orders; 0 old events of balances dropped\n"
    assert told.err == (
        "not finished: the command waited too long for the database, mostly for a lock of another session"
        " (canceling statement due to lock timeout); what is archived stays so: repeat the command\n"
    )


async def test_a_database_that_is_away_ends_the_command_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert await commands.run(ARGUMENTS) == 1
    told = capsys.readouterr().err
    assert told.startswith("not finished: the database is not available (")
    assert told.count("\n") == 1


async def test_an_error_that_a_repetition_does_not_mend_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_in_the_second_step(monkeypatch, asyncpg.UndefinedFunctionError("gateway.archive_timelines does not exist"))
    with pytest.raises(DBAPIError, match="does not exist"):
        await commands.run(ARGUMENTS)
