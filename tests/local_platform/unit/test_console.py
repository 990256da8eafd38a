"""What the terminal and a pipe get."""

import asyncio
from pathlib import Path

import pytest

from local_platform.console import LogFollower, red, say, table
from tests.support import eventually


def test_a_table_is_as_wide_as_its_widest_cells(capsys: pytest.CaptureFixture[str]) -> None:
    say(table(("name", "pid"), [("billing", "7"), ("s3", "12345")]))
    assert capsys.readouterr().out.splitlines() == [
        "name     pid",
        "billing  7",
        "s3       12345",
    ]


def test_a_pipe_gets_whole_lines_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    long = "an id [0] that must not be cut " * 20
    say(red("failed: "), long)
    say(table(("id",), [(long,)]))
    assert capsys.readouterr().out.splitlines() == [f"failed: {long}".rstrip(), "id", long.rstrip()]


async def test_followed_logs_show_whole_new_lines_after_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "billing.log"
    log.write_text("from before\n")
    following = asyncio.create_task(LogFollower({"billing": log, "s3": tmp_path / "absent.log"}).run())
    shown = ""

    def has_shown(text: str) -> bool:
        nonlocal shown
        shown += capsys.readouterr().out
        return text in shown

    await asyncio.sleep(0)
    with log.open("a") as file:
        file.write("one\ntwo, unfin")
        file.flush()
        await eventually(lambda: has_shown("one"), what="the first line is shown")
        assert "unfin" not in shown
        file.write("ished\n")
    await eventually(lambda: has_shown("two, unfinished"), what="the second line is shown whole")
    following.cancel()
    await asyncio.wait([following])
    assert shown == "billing | one\nbilling | two, unfinished\n"
