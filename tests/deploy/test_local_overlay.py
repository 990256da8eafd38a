"""The local overlay: the whole platform in one small cluster, true to the settings and to Compose."""

import base64
import json
import re
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

import messaging.provisioning
from contracts.message import SERVICES, Service
from provisioning.database import all_roles
from tests.deploy.manifests import COMPOSE, KUBERNETES, Manifest, compose_services, of_kind, render, settings_of

EMULATORS: Final = ("identity", "runpod", "stripe", "btcpay", "nowpayments", "worker")
SERVERS: Final = ("postgres", "nats", "s3")
KINDS_WITH_PODS: Final = ("Deployment", "StatefulSet", "Job", "CronJob")


def local() -> tuple[Manifest, ...]:
    return render(KUBERNETES / "overlays/local")


def pods() -> dict[str, Manifest]:
    """Every pod's specification by the name of what makes it."""
    found: dict[str, Manifest] = {}
    for one in local():
        if one["kind"] in KINDS_WITH_PODS:
            spec = one["spec"].get("jobTemplate", one)["spec"]
            found[one["metadata"]["name"]] = spec["template"]["spec"]
    return found


def container_of(name: str) -> Manifest:
    (container,) = pods()[name]["containers"]
    return dict(container)


def environment(name: str) -> dict[str, str]:
    """What a pod gets from its ConfigMaps and Secrets."""
    configs, secrets = of_kind(local(), "ConfigMap"), of_kind(local(), "Secret")
    given: dict[str, str] = {}
    for source in container_of(name)["envFrom"]:
        if "configMapRef" in source:
            given |= configs[source["configMapRef"]["name"]]["data"]
        else:
            given |= decoded(secrets[source["secretRef"]["name"]])
    return given


def decoded(secret: Manifest) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}


def generated(prefix: str) -> dict[str, str]:
    """The one Secret whose name is ``prefix`` and a hash."""
    secrets = of_kind(local(), "Secret").items()
    (found,) = [one for name, one in secrets if re.fullmatch(rf"{prefix}-[a-z0-9]{{10}}", name)]
    return decoded(found)


@pytest.mark.parametrize("service", SERVICES)
def test_the_local_settings_are_known_complete_and_accepted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(service)
    assert set(given) <= {f"{service.upper()}_{field.upper()}" for field in settings_of(service).model_fields}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = settings_of(service)()
    assert settings.stream_replicas == 1


def test_the_local_provisioner_has_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("provision-broker").items():
        monkeypatch.setenv(name, value)
    assert messaging.provisioning.Settings().stream_replicas == 1


def test_every_address_in_the_cluster_leads_to_a_port_that_is_open() -> None:
    open_ports = {
        (name, str(port["port"])) for name, one in of_kind(local(), "Service").items() for port in one["spec"]["ports"]
    }
    commands = [argument for name in pods() for argument in container_of(name).get("args", [])]
    named = [value for service in SERVICES for value in environment(service).values()] + commands
    urls = [urlsplit(url) for url in re.findall(r"(?:http|nats|postgresql)://[^\s\"]+", " ".join(named))]
    reached = {
        (str(url.hostname), str(url.port or 80)) for url in urls if url.hostname not in ("localhost", "127.0.0.1")
    }
    assert reached
    assert reached <= open_ports


def test_local_passwords_match_on_both_sides() -> None:
    roles = json.loads(generated("database-passwords")["passwords.json"])
    assert set(roles) == set(all_roles())
    for service in SERVICES:
        given, prefix = environment(service), service.upper()
        migration = environment(f"migrate-{service}-dev")[f"{prefix}_MIGRATION_DATABASE_URL"]
        assert f"//{service}:{roles[service]}@" in given[f"{prefix}_DATABASE_URL"]
        assert f"//{service}_migrator:{roles[f'{service}_migrator']}@" in migration
    users = {one["name"] for one in container_of("nats")["env"]}
    assert users == set(compose_services()["nats"]["environment"])


def test_local_secrets_are_those_of_compose() -> None:
    for service in SERVICES:
        theirs = compose_services()[service]["environment"]
        for name, value in generated(service).items():
            assert theirs[name] == value, name


@pytest.mark.parametrize("name", SERVERS)
def test_servers_are_those_of_compose(name: str) -> None:
    assert container_of(name)["image"] == compose_services()[name]["image"]


@pytest.mark.parametrize("name", EMULATORS)
def test_emulators_run_as_in_compose(name: str) -> None:
    ours, theirs = container_of(name), compose_services()[name]
    assert ours["image"] == theirs["image"]
    # Here the port of a service is 80, and an emulator keeps its key where it may write.
    expected = [one.replace("payments:8000", "payments").replace("/keys/", "/tmp/") for one in theirs["command"] or []]
    assert ours.get("args", []) == expected
    environment = {key: value.replace("$$", "$") for key, value in theirs.get("environment", {}).items()}
    assert {one["name"]: one["value"] for one in ours.get("env", [])} == environment


def test_all_buckets_are_made_in_the_cluster() -> None:
    (script,) = [one["data"] for name, one in of_kind(local(), "ConfigMap").items() if name.startswith("make-buckets-")]
    assert container_of("make-buckets")["command"] == ["sh", "/etc/reelhouse/make-buckets.sh"]
    assert script == {"make-buckets.sh": (COMPOSE / "make-buckets.sh").read_text()}


def test_one_replica_of_everything_and_nothing_that_scales() -> None:
    made: dict[str, Any] = {**of_kind(local(), "Deployment"), **of_kind(local(), "StatefulSet")}
    assert {one["spec"]["replicas"] for one in made.values()} == {1}
    assert not {one["kind"] for one in local()} & {"HorizontalPodAutoscaler", "PodDisruptionBudget", "ScaledObject"}


def test_every_pod_is_admitted_by_the_restricted_standard() -> None:
    (namespace,) = of_kind(local(), "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_passwords_of_this_repository_are_in_no_other_overlay() -> None:
    for overlay in (KUBERNETES / "overlays").iterdir():
        if overlay.name != "local":
            assert "local-only" not in json.dumps(render(overlay))
            assert "local_only" not in json.dumps(render(overlay))
