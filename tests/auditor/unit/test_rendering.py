"""What an operator reads."""

import io
import re
from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest

from auditor.domain import Invariant, Report, Result, Violation
from auditor.reports import render_report
from auditor.terminal import WIDEST_CELL, print_to, record, table
from auditor.timeline import Hop, render_timeline
from tests.auditor.pages import as_text


def test_columns_are_in_line_and_numbers_to_the_right() -> None:
    assert as_text(table(("name", "ms"), [("a", 5), ("longer", 1200)], right=(1,))).splitlines() == [
        "name      ms",
        "------  ----",
        "a          5",
        "longer  1200",
    ]


def test_long_values_are_cut_and_lines_stay_lines() -> None:
    (_, _, line) = as_text(table(("a",), [("x\ny" * 100,)])).splitlines()
    assert len(line) == 100
    assert line.endswith("…")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_styles_and_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, shown = Terminal(), table(("name", "ms"), [("a", 5)])
    print_to(terminal, shown)
    assert "\x1b[1m" in terminal.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()) == as_text(shown) + "\n"


def test_a_line_is_whole_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ids = [str(uuid4()) for _ in range(10)]
    (_, _, line) = as_text(table([f"id {number}" for number in range(10)], [ids])).splitlines()
    assert line.split() == ids


def test_a_report_shows_both_sides_whole_however_long_they_are() -> None:
    long = "word " * 60 + "the end"
    broken = Invariant(code="no_gaps", severity="critical", meaning="There is no gap", query="")
    result = Result(broken, 1, (Violation("no_gaps", "critical", "user 1", long, long),), 0.25)
    text = as_text(render_report(Report(datetime(2026, 11, 1, tzinfo=UTC), 60, (result,))))
    assert text.count(long) == 2


def test_control_characters_do_not_reach_a_terminal() -> None:
    shown = as_text(record([("error", "a\x1b[2Jb\x07")]))
    assert shown == "error  a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}"


def test_a_long_value_is_folded_between_words_and_a_key_stays_whole() -> None:
    key = f"{'user':-<36}/{'generation':-<36}/poster-44af42ad142d6f46.jpg"
    assert len(key) > WIDEST_CELL
    assert as_text(record([("file", key)])) == f"file  {key}"
    first, second = as_text(record([("detail", " ".join(["word"] * 25))])).splitlines()
    assert first.split() == ["detail"] + ["word"] * 20
    assert second.split() == ["word"] * 5


def test_times_are_utc_to_the_millisecond() -> None:
    moment = datetime(2026, 11, 1, 14, 0, 0, 123_456, tzinfo=timezone(timedelta(hours=2)))
    assert as_text(record([("at", moment)])) == "at  2026-11-01 12:00:00.123Z"


def test_a_record_leaves_out_what_is_null() -> None:
    assert (
        as_text(record([("status", "held"), ("resolved_at", None), ("late", False)])) == "status  held\nlate    False"
    )


def test_a_report_names_every_invariant_and_each_offender_with_both_sides() -> None:
    fine = Invariant(code="all_well", severity="critical", meaning="Nothing is wrong", query="")
    broken = Invariant(code="no_gaps", severity="critical", meaning="There is no gap", query="")
    violation = Violation("no_gaps", "critical", "user 1", "3 lines", "2 lines")
    report = Report(
        checked_at=datetime(2026, 11, 1, tzinfo=UTC),
        tolerance_seconds=60,
        results=(Result(fine, 0, (), 0.25), Result(broken, 7, (violation,), 0.25)),
    )
    text = as_text(render_report(report))
    assert "ok          all_well" in text
    assert "7 VIOLATED  no_gaps" in text
    assert "no_gaps    user 1   3 lines   2 lines" in text
    assert "7 violations of 2 invariants" in text
    assert "0.50 s of queries" in text


def test_a_timeline_shows_the_latency_of_each_hop_and_its_cause() -> None:
    hop = Hop(
        message_id=uuid4(),
        occurred_at=datetime(2026, 11, 1, 12, 30, 0, 250_000, tzinfo=UTC),
        producer="billing",
        name="credits-reserved",
        correlation_id=uuid4(),
        cause="generation-requested",
        since_start_ms=1234.4,
        hop_ms=17.6,
        trace_id=None,
        summary="price=30",
    )
    (_, _, line) = as_text(render_timeline([hop])).splitlines()
    assert line.split() == [
        "11-01",
        "12:30:00.250",
        "1,234",
        "18",
        "billing",
        "credits-reserved",
        "generation-requested",
        "price=30",
    ]
