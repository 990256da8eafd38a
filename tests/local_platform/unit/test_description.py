"""The platform file."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local_platform.description import (
    NatsDescription,
    PlatformDescription,
    PlatformNotRunningError,
    PostgresDescription,
    S3Credentials,
    S3Description,
    platform_directory,
    read_platform,
    write_platform,
)
from local_platform.greeting import say_how_to_try_it
from local_platform.identity import describe, new_private_key_pem
from local_platform.locking import remove_leftovers


def _description(data: Path) -> PlatformDescription:
    return PlatformDescription(
        name="local",
        started_at=datetime.now(UTC),
        supervisor_pid=1,
        data_directory=str(data),
        log_directory="/logs",
        urls={"gateway": "http://127.0.0.1:1"},
        postgres=PostgresDescription(database="reelhouse", superuser_dsn="postgresql://", dsns={}),
        nats=NatsDescription(url="nats://", monitor_url="http://", users={}),
        s3=S3Description(
            endpoint_url="http://",
            region="auto",
            buckets=[],
            credentials={"admin": S3Credentials(access_key="a", secret_key="s")},
        ),
        identity=describe("http://127.0.0.1:2", new_private_key_pem()),
        environments={},
        processes={},
    )


def test_a_description_is_read_as_written_and_only_by_its_owner(tmp_path: Path) -> None:
    directory = platform_directory("local", tmp_path)
    directory.mkdir(parents=True)
    written = _description(tmp_path)
    write_platform(written, directory)
    assert read_platform("local", tmp_path) == written
    assert stat.S_IMODE((directory / "platform.json").stat().st_mode) == 0o600
    assert [path.name for path in directory.iterdir()] == ["platform.json"]


def test_the_error_names_the_platform_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(PlatformNotRunningError, match="make up NAME=other"):
        read_platform("other", tmp_path)


def test_the_files_of_a_killed_supervisor_are_removed(tmp_path: Path) -> None:
    directory, data = platform_directory("local", tmp_path), tmp_path / "data"
    directory.mkdir(parents=True)
    data.mkdir()
    write_platform(_description(data), directory)
    left = remove_leftovers(directory)
    assert left is not None
    assert not data.exists()
    assert list(directory.iterdir()) == []
    assert remove_leftovers(directory) is None


def test_the_first_thing_to_try_is_the_playground(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say_how_to_try_it(_description(tmp_path))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0] == "Open this in a browser: http://127.0.0.1:1/playground/"
    assert "export REELHOUSE=http://127.0.0.1:1" in lines
