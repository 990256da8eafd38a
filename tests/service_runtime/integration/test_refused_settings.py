"""What somebody is told who starts a service with settings that cannot be."""

import os
import subprocess
import sys

import pytest

from contracts.message import SERVICES


def start(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a service's command with nothing but these variables set."""
    return subprocess.run(
        [sys.executable, "-m", *command.split()],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("service", SERVICES)
def test_each_missing_setting_is_named_as_the_variable_that_it_is(service: str) -> None:
    ended = start(f"{service}.main serve", **{f"{service.upper()}_NATS_URL": "nats://localhost"})
    assert ended.returncode == 2
    missing = ended.stderr.splitlines()
    assert f"{service.upper()}_DATABASE_URL: Field required" in missing
    assert f"{service.upper()}_NATS_PASSWORD: Field required" in missing
    assert all(line.startswith(f"{service.upper()}_") for line in missing), missing
    assert not any("NATS_URL" in line for line in missing)


def test_a_command_names_its_missing_database_too() -> None:
    ended = start("billing.main verify")
    assert (ended.returncode, ended.stderr) == (2, "BILLING_DATABASE_URL: Field required\n")


@pytest.mark.parametrize(
    "secrets", ['["s3cr3t-of-ours", ""]', "s3cr3t-of-ours", '["s3cr3t-of-ours", "s3cr3t-of-ours", "s3cr3t-of-ours"]']
)
def test_a_refused_secret_is_named_and_not_shown(secrets: str) -> None:
    ended = start("generation.main serve", GENERATION_CALLBACK_SECRETS=secrets)
    assert ended.returncode == 2
    assert "callback_secrets" in ended.stderr.lower()
    assert "s3cr3t" not in ended.stderr + ended.stdout
