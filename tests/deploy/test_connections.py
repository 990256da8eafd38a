"""PostgreSQL has a connection for everybody: all pools at the most replicas, the surge of a roll-out, and operators."""

import re
from collections.abc import Sequence
from typing import Final

import pytest

from auditor.checking import reading_engine
from contracts.message import SERVICES, Service
from tests.deploy.manifests import KUBERNETES, ROOT, Manifest, compose_services, of_kind, render, settings_of

BESIDE_THE_POOL: Final = 2
"""A process asks on a connection of its own whether the database answers, and at times on a second one."""
OTHERS: Final = 25
"""Superusers (3 reserved), replication and backups, exporters, Grafana, and commands that operators run."""


def pool_size(service: Service, given: dict[str, str]) -> int:
    """The most connections of one process."""
    default = settings_of(service).model_fields["database_pool_size"].default
    size = int(given.get(f"{service.upper()}_DATABASE_POOL_SIZE", default))
    checks = reading_engine("postgresql://auditor@localhost/reelhouse").pool.size() if service == "auditor" else 0  # type: ignore[attr-defined] # a queue pool
    return size + int(checks) + BESIDE_THE_POOL


def most_pods(manifests: Sequence[Manifest], service: Service) -> int:
    """The replicas, or the most that scaling may make, and those of a roll-out."""
    deployment = of_kind(manifests, "Deployment")[service]["spec"]
    scaled = [
        one["spec"][limit]
        for kind, limit in (("HorizontalPodAutoscaler", "maxReplicas"), ("ScaledObject", "maxReplicaCount"))
        for one in of_kind(manifests, kind).values()
        if one["spec"]["scaleTargetRef"]["name"] == service
    ]
    return int(max([deployment.get("replicas", 1), *scaled])) + int(deployment["strategy"]["rollingUpdate"]["maxSurge"])


def needed(manifests: Sequence[Manifest]) -> int:
    """Connections of every pod and of every migration at once, and of others."""
    configs = {name.rpartition("-")[0]: one["data"] for name, one in of_kind(manifests, "ConfigMap").items()}
    pools = sum(most_pods(manifests, service) * pool_size(service, configs[service]) for service in SERVICES)
    return pools + len(SERVICES) + OTHERS


def allowed_by(arguments: Sequence[str]) -> int:
    (found,) = re.findall(r"max_connections=(\d+)", " ".join(arguments))
    return int(found)


@pytest.mark.parametrize("overlay", sorted(path.name for path in (KUBERNETES / "overlays").iterdir()))
def test_the_database_of_an_overlay_has_connections_for_all_pools(overlay: str) -> None:
    manifests = render(KUBERNETES / "overlays" / overlay)
    clusters, servers = of_kind(manifests, "Cluster"), of_kind(manifests, "StatefulSet")
    if "postgres" in clusters:
        allowed = int(clusters["postgres"]["spec"]["postgresql"]["parameters"]["max_connections"])
    else:
        allowed = allowed_by(servers["postgres"]["spec"]["template"]["spec"]["containers"][0]["args"])
    assert needed(manifests) <= allowed


def test_the_database_of_compose_has_connections_for_all_pools() -> None:
    pools = sum(pool_size(service, compose_services()[service]["environment"]) for service in SERVICES)
    assert pools + len(SERVICES) + OTHERS <= allowed_by(compose_services()["postgres"]["command"])


def test_the_sizing_of_connections_is_documented_as_it_is() -> None:
    manifests = render(KUBERNETES / "overlays/production")
    text = (ROOT / "docs/deploy.md").read_text()
    table = dict(re.findall(r"^\| (\w+) \| \d+ \+ \d+ \| \d+ \| (\d+) \|$", text, re.MULTILINE))
    configs = {name.rpartition("-")[0]: one["data"] for name, one in of_kind(manifests, "ConfigMap").items()}
    expected = {one: most_pods(manifests, one) * pool_size(one, configs[one]) for one in SERVICES}
    assert {name: int(count) for name, count in table.items()} == expected
    assert f"{needed(manifests)} connections" in text
