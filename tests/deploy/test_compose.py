"""deploy/compose, held without an engine: parsed by the real Compose, and true to the settings of the services."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

import messaging.provisioning
from contracts.message import SERVICES, Service
from provisioning import broker
from provisioning.buckets import BUCKETS
from provisioning.database import all_roles
from tests.deploy.manifests import COMPOSE, ROOT, settings_of
from tests.deploy.manifests import compose_services as services


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_a_setting_and_the_settings_are_accepted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = services()[service]["environment"]
    known = {f"{service.upper()}_{field.upper()}" for field in settings_of(service).model_fields}
    assert set(given) <= known, "a variable that no setting reads"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings_of(service)()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_after_its_migration_and_the_servers_that_it_names(service: Service) -> None:
    one = services()[service]
    waits = {name: dependency["condition"] for name, dependency in one["depends_on"].items()}
    assert waits[f"migrate-{service}"] == "service_completed_successfully"
    assert waits["nats"] == "service_healthy"
    named = {name for name in services() if f"//{name}:" in json.dumps(one["environment"])}
    started = set(waits) | {"postgres", service}  # the migration waited for PostgreSQL
    # Callbacks come from outside to the service itself; generation's own address is among its settings.
    assert named <= started


def test_every_port_is_open_to_this_machine_alone() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_passwords_match_on_both_sides() -> None:
    roles = json.loads((COMPOSE / "passwords.json").read_text())
    assert set(roles) == set(all_roles())
    nats = services()["nats"]["environment"]
    identities = {
        one["credentials"][0]["accessKey"]: one["credentials"][0]["secretKey"]
        for one in json.loads((COMPOSE / "s3.json").read_text())["identities"]
    }
    for service in SERVICES:
        environment, prefix = services()[service]["environment"], service.upper()
        migration = services()[f"migrate-{service}"]["environment"][f"{prefix}_MIGRATION_DATABASE_URL"]
        assert f"//{service}:{roles[service]}@" in environment[f"{prefix}_DATABASE_URL"]
        assert f"//{service}_migrator:{roles[f'{service}_migrator']}@" in migration
        assert nats[f"{prefix}_NATS_PASSWORD"] == environment[f"{prefix}_NATS_PASSWORD"]
        if f"{prefix}_S3_ACCESS_KEY_ID" in environment:
            assert (
                identities[environment[f"{prefix}_S3_ACCESS_KEY_ID"]] == environment[f"{prefix}_S3_SECRET_ACCESS_KEY"]
            )


def test_the_provisioner_makes_the_streams_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = services()["streams"]
    assert one["command"] == [messaging.provisioning.__name__]
    assert one["depends_on"]["nats"]["condition"] == "service_healthy"
    for name, value in one["environment"].items():
        monkeypatch.setenv(name, value)
    messaging.provisioning.Settings()
    assert (
        services()["nats"]["environment"]["PROVISIONER_NATS_PASSWORD"]
        == one["environment"]["PROVISIONER_NATS_PASSWORD"]
    )


def test_the_broker_is_configured_from_the_registry() -> None:
    assert (COMPOSE / "nats.conf").read_text() == broker.server_configuration(), "run `make docs`"


def test_all_buckets_are_made() -> None:
    (script,) = services()["buckets"]["volumes"]
    assert services()["buckets"]["entrypoint"] == ["sh", script["target"]]
    (made,) = re.findall(r"^for bucket in (.+); do$", Path(script["source"]).read_text(), re.MULTILINE)
    assert set(made.split()) == set(BUCKETS)


def test_prometheus_scrapes_every_service() -> None:
    configuration = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    (job,) = configuration["scrape_configs"]
    assert {target["labels"]["service"] for target in job["static_configs"]} == set(SERVICES)


def test_the_collector_receives_where_the_services_send() -> None:
    configuration = yaml.safe_load((COMPOSE / "collector.yaml").read_text())
    port = configuration["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    sent = {services()[service]["environment"][f"{service.upper()}_OTLP_ENDPOINT"] for service in SERVICES}
    assert sent == {f"http://collector:{port}/v1/traces"}
    (pipeline,) = configuration["service"]["pipelines"].values()
    for part in ("receivers", "processors", "exporters"):
        assert set(pipeline[part]) == set(configuration[part]), f"{part} that are not used, or not there"
    backend = urlsplit(configuration["exporters"]["otlphttp"]["endpoint"]).hostname
    assert backend in services()["collector"]["depends_on"]


def test_every_mounted_file_exists() -> None:
    mounted = [volume for service in services().values() for volume in service.get("volumes", [])]
    for volume in mounted:
        if volume["type"] == "bind":
            assert (ROOT / volume["source"]).exists(), volume["source"]
