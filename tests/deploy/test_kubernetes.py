"""deploy/k8s as a platform engineer applies it: rendered whole, valid, confined, and true to the services' settings."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import yaml

import messaging.provisioning
from contracts.message import SERVICES, Service
from gateway.routes.verification import CUT_OFF_SECONDS
from provisioning.broker import USERS, password_variable
from provisioning.database import all_roles
from tests.deploy.manifests import (
    CHECKOV_EXCEPTIONS,
    DNS_ON_THE_NODE,
    KUBERNETES,
    KUBERNETES_VERSIONS,
    ROOT,
    Manifest,
    Policies,
    combination,
    copy_of_tree,
    hold_against_schemas,
    of_kind,
    render,
    run,
    settings_of,
)

PRODUCTION: Final = KUBERNETES / "overlays/production"
COMBINATIONS: Final = [
    [],
    ["gateway-api"],
    ["ingress"],
    ["keda", "gateway-api"],
    ["external-secrets"],
    ["external-secrets", "cloudnative-pg"],
    ["external-secrets", "nats"],
    ["prometheus-operator", "ingress"],
    ["network-policies"],
    ["ingress", "keda", "external-secrets", "cloudnative-pg", "nats", "prometheus-operator", "network-policies"],
]
URL_FIELDS: Final = {
    "database_url": "postgres",
    "nats_url": "nats",
    "otlp_endpoint": "monitoring",
    "s3_endpoint_url": "internet",
    "s3_public_endpoint_url": None,  # goes into presigned URLs, which others open
    "jwks_url": "internet",
    "jwt_issuer": None,  # compared, never fetched
    "runpod_api_base": "internet",
    "runpod_rest_base": "internet",
    "callback_base_url": None,  # our own address
    "public_base_url": None,  # our own address
    "checkout_success_url": None,  # where browsers are sent
    "checkout_cancel_url": None,
    "stripe_api_base": "internet",
    "btcpay_url": "internet",
    "nowpayments_url": "internet",
}
"""Where each address among the settings is called from the pod; None where it is not."""
PLACEHOLDERS: Final = r"\.invalid|example\.com|PROJECT|ACCOUNT|REGION|ENDPOINT_ID"
"""What the production overlay holds until a team puts its own names there; docs/deploy.md searches for the same."""
PORTS: Final = {"postgres": "5432", "nats": "4222", "internet": "443", "monitoring": "4318"}


@cache
def pod_templates() -> dict[str, Manifest]:
    """Pod templates of production by their ``app.kubernetes.io/name``."""
    manifests = render(PRODUCTION)
    workloads = [*of_kind(manifests, "Deployment").values(), *of_kind(manifests, "Job").values()]
    templates = [workload["spec"]["template"] for workload in workloads]
    scheduled = of_kind(manifests, "CronJob").values()
    templates += [workload["spec"]["jobTemplate"]["spec"]["template"] for workload in scheduled]
    return {template["metadata"]["labels"]["app.kubernetes.io/name"]: template for template in templates}


@pytest.mark.parametrize("overlay", sorted(path.name for path in (KUBERNETES / "overlays").iterdir()))
def test_an_overlay_renders_and_fits_the_schemas(overlay: str, tmp_path: Path) -> None:
    hold_against_schemas(render(KUBERNETES / "overlays" / overlay), tmp_path)


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_a_combination_of_components_renders_and_fits(components: list[str], tmp_path: Path) -> None:
    hold_against_schemas(render(combination(tmp_path, components)), tmp_path)


def test_no_placeholder_is_left_when_the_files_of_a_deployer_are_filled_in(tmp_path: Path) -> None:
    overlay = copy_of_tree(tmp_path) / "overlays/production"
    assert re.search(PLACEHOLDERS, yaml.safe_dump_all(render(PRODUCTION)))
    named = [overlay / name for name in ("addresses.env", "secret-store.yaml", "release/kustomization.yaml")]
    for file in (*named, *(overlay / "settings").iterdir()):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line if ".invalid" in line else re.sub(PLACEHOLDERS, "mine", line) for line in lines))
    text = yaml.safe_dump_all(render(overlay))
    assert not re.findall(rf".*(?:{PLACEHOLDERS}).*", text)
    assert f"grep -nE '{PLACEHOLDERS}'" in (ROOT / "docs/deploy.md").read_text()


def test_traces_go_to_the_collector_of_the_overlay_when_they_are_listed(tmp_path: Path) -> None:
    overlay = copy_of_tree(tmp_path) / "overlays/production"
    file = overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("  # - path: traces.yaml", "  - path: traces.yaml"))
    configs = {name.rpartition("-")[0]: one["data"] for name, one in of_kind(render(overlay), "ConfigMap").items()}
    found = {configs[service][f"{service.upper()}_OTLP_ENDPOINT"] for service in SERVICES}
    (address,) = found
    collector = urlsplit(address)
    assert ((collector.hostname or "").partition(".")[2], str(collector.port)) == ("monitoring", PORTS["monitoring"])


def test_an_alert_leads_to_its_section_at_the_address_of_the_overlay() -> None:
    (address,) = re.findall(r"^RUNBOOK=(\S+)$", (PRODUCTION / "addresses.env").read_text(), re.MULTILINE)
    sections = set(re.findall(r"^#+ (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE))
    rules = of_kind(render(PRODUCTION), "PrometheusRule")["reelhouse"]["spec"]["groups"]
    urls = {rule["annotations"]["runbook_url"] for group in rules for rule in group["rules"] if "alert" in rule}
    assert urls
    assert urls <= {f"{address}#{section.lower()}" for section in sections}


def test_every_component_is_in_a_combination_and_says_what_it_needs() -> None:
    directories = {path.name for path in (KUBERNETES / "components").iterdir()} - {"migrations-by-tag"}
    assert {name for combined in COMBINATIONS for name in combined} == directories
    document = (ROOT / "docs/deploy.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \| [^|]+ \|$", document, re.MULTILINE)) == directories


def test_the_versions_of_kubernetes_are_those_of_the_document() -> None:
    document = (ROOT / "docs/deploy.md").read_text()
    oldest, newest = KUBERNETES_VERSIONS
    assert f"a Kubernetes cluster ({oldest} or newer)" in document
    assert f"the schemas of Kubernetes {oldest} and {newest}" in document


def test_checkov_finds_exactly_what_is_explained(tmp_path: Path) -> None:
    (tmp_path / "production.yaml").write_text(yaml.safe_dump_all(render(PRODUCTION)))
    arguments = ("--framework", "kubernetes", "--output", "json", "--quiet", "--soft-fail")
    report = json.loads(run("checkov", "--file", tmp_path / "production.yaml", *arguments))
    assert report["summary"]["passed"] > 100
    assert {check["check_id"] for check in report["results"]["failed_checks"]} == set(CHECKOV_EXCEPTIONS)


@pytest.mark.parametrize("service", SERVICES)
def test_pods_are_confined_and_stop_in_time(service: Service) -> None:
    pod = pod_templates()[service]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for confined in (*pod["initContainers"], container):
        assert confined["securityContext"]["readOnlyRootFilesystem"] is True
        assert confined["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert confined["resources"]["limits"]["memory"]
    config = _settings_given(service)
    drain = float(config[f"{service.upper()}_DRAIN_SECONDS"])
    assert drain + container["lifecycle"]["preStop"]["sleep"]["seconds"] < pod["terminationGracePeriodSeconds"]
    assert {probe for probe in container if probe.endswith("Probe")} == {
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
    }


def test_storage_decodes_in_a_user_namespace_of_its_own() -> None:
    assert pod_templates()["storage"]["spec"]["hostUsers"] is False


@pytest.mark.parametrize("service", SERVICES)
def test_settings_are_known_complete_and_accepted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"{service.upper()}_"
    given = _settings_given(service)
    secret = {name.removesuffix("?") for name in _secret_entries()[f"reelhouse/{service}"]}
    known = {f"{prefix}{field.upper()}" for field in settings_of(service).model_fields}
    assert set(given) | secret <= known, "a variable that no setting reads"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for name in _secret_entries()[f"reelhouse/{service}"]:
        if not name.endswith("?"):
            monkeypatch.setenv(
                name, '["0123456789abcdef0123456789abcdef"]' if name.endswith("SECRETS") else "some-value"
            )
    settings_of(service)()


@pytest.mark.parametrize("service", SERVICES)
def test_each_secret_that_a_pod_names_has_an_entry(service: Service) -> None:
    for name in (service, f"migrate-{service}"):
        spec = pod_templates()[name]["spec"]
        containers = [*spec.get("initContainers", []), *spec["containers"]]
        named = {
            source["secretRef"]["name"]
            for container in containers
            for source in container["envFrom"]
            if "secretRef" in source
        }
        assert named <= {entry.removeprefix("reelhouse/") for entry in _secret_entries()}


def test_each_secret_that_a_custom_resource_names_is_made() -> None:
    manifests = render(PRODUCTION)
    made = {one["spec"]["target"]["name"] for one in of_kind(manifests, "ExternalSecret").values()}
    credentials = of_kind(manifests, "ObjectStore")["postgres-backups"]["spec"]["configuration"]["s3Credentials"]
    roles = of_kind(manifests, "Cluster")["postgres"]["spec"]["managed"]["roles"]
    named = {one["name"] for one in credentials.values()} | {role["passwordSecret"]["name"] for role in roles}
    assert named <= made


def test_settings_and_their_change_reach_the_pods() -> None:
    """The names of the ConfigMaps end with a hash, so that another value is another name and rolls the pods."""
    manifests = render(PRODUCTION)
    for service, deployment in of_kind(manifests, "Deployment").items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        (name,) = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
        assert re.fullmatch(rf"{service}-[a-z0-9]{{10}}", name)
        assert name in of_kind(manifests, "ConfigMap")


def test_each_release_migrates_once_under_the_tag_of_its_images() -> None:
    manifests = render(PRODUCTION)
    for service, deployment in of_kind(manifests, "Deployment").items():
        image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        job = of_kind(manifests, "Job")[f"migrate-{service}-{image.rpartition(':')[2]}"]
        assert job["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_a_registry_with_a_port_has_its_tag_after_the_second_colon(tmp_path: Path) -> None:
    tree = copy_of_tree(tmp_path)
    for file, old, new in (
        (tree / "overlays/production/release/kustomization.yaml", "registry.example.com/", "registry.internal:5000/"),
        (tree / "components/migrations-by-tag/kustomization.yaml", "index: 1}}", "index: 2}}"),
    ):
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    assert set(of_kind(render(tree / "overlays/production"), "Job")) == set(of_kind(render(PRODUCTION), "Job"))


def test_policies_allow_the_edges_of_the_settings_and_no_other() -> None:
    pods = [template["metadata"] for template in pod_templates().values()]
    allowed = Policies.of(render(PRODUCTION), pods).edges
    wanted: set[tuple[str, str, str]] = set()
    for service in SERVICES:
        fields = settings_of(service).model_fields
        addresses = [name for name in fields if name.endswith(("_url", "_base", "_endpoint", "_issuer"))]
        for field in addresses:
            peer = URL_FIELDS[field]
            if peer is not None and (service, field) != ("gateway", "s3_endpoint_url"):  # it only signs addresses
                wanted.add((service, peer, PORTS[peer]))
        if "http_port" in fields:
            wanted.add(("edge-proxy", service, "http"))
        wanted.add((f"migrate-{service}", "postgres", "5432"))
        for pod in (service, f"migrate-{service}"):
            wanted |= {(pod, "kube-system", "53"), ("monitoring", pod, "ops")}
    provisioner = "provision-broker"
    wanted |= {
        (provisioner, "nats", PORTS["nats"]),
        (provisioner, "kube-system", "53"),
        ("monitoring", provisioner, "ops"),
    }
    assert allowed == wanted


def test_names_are_looked_up_at_the_cluster_or_at_the_node() -> None:
    (rule,) = of_kind(render(PRODUCTION), "NetworkPolicy")["to-dns"]["spec"]["egress"]
    (selected, *blocks) = rule["to"]
    assert selected == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    assert tuple(block["ipBlock"]["cidr"] for block in blocks) == DNS_ON_THE_NODE
    assert {port["port"] for port in rule["ports"]} == {53}, "nothing else of the node's metadata service"


def test_the_provisioner_is_confined_and_has_the_settings_of_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(PRODUCTION)
    (container,) = pod_templates()["provision-broker"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", messaging.provisioning.__name__]
    assert (
        container["image"]
        == of_kind(manifests, "Deployment")["auditor"]["spec"]["template"]["spec"]["containers"][0]["image"]
    )
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (given,) = [one["data"] for name, one in of_kind(manifests, "ConfigMap").items() if name.startswith("provisioner-")]
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for name in _secret_entries()["reelhouse/provisioner"]:
        monkeypatch.setenv(name, "some-value")
    settings = messaging.provisioning.Settings()
    assert settings.stream_replicas == 3
    assert set(given) | set(_secret_entries()["reelhouse/provisioner"]) <= {
        f"PROVISIONER_{field.upper()}" for field in messaging.provisioning.Settings.model_fields
    }


def test_the_sizes_of_streams_are_documented_as_a_file_of_settings_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kustomize takes a line of such a file as it stands: quotes would become a part of the value."""
    shown = re.findall(r"^    (PROVISIONER_STREAM_MAX_\w+)=(.*)$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE)
    for name, value in [*shown, ("PROVISIONER_NATS_URL", "nats://nats"), ("PROVISIONER_NATS_PASSWORD", "some-value")]:
        monkeypatch.setenv(name, value)
    settings = messaging.provisioning.Settings()
    assert (settings.stream_max_bytes, settings.stream_max_age_seconds) == tuple(
        json.loads(value) for _, value in shown
    )


def test_the_description_of_the_api_is_published_beside_it() -> None:
    rules = of_kind(render(PRODUCTION), "HTTPRoute")["gateway"]["spec"]["rules"]
    assert {"/v1", "/openapi.json", "/docs"} <= {match["path"]["value"] for rule in rules for match in rule["matches"]}


def test_every_chart_has_one_version_wherever_it_is_named() -> None:
    """Without one, Helm installs the newest: an upgrade of our values would be one of the chart."""
    document = (ROOT / "docs/deploy.md").read_text()
    named = re.findall(r"helm upgrade (?:--install )?[\w-]+ (\S+)(?: --version (\S+))?", document)
    charts = dict(named)
    assert len(charts) == 8
    assert all(version and version == charts[chart] for chart, version in named)


def test_ingress_and_gateway_api_publish_the_same_paths(tmp_path: Path) -> None:
    routes = of_kind(render(PRODUCTION), "HTTPRoute").values()
    by_route = {
        (match["path"]["value"], backend["name"])
        for route in routes
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
        for backend in rule["backendRefs"]
        if match["path"]["value"] not in ("/v1/events", "/v1/verify")  # parts of /v1, with time limits of their own
    }
    ingresses = of_kind(render(combination(tmp_path, ["ingress"])), "Ingress").values()
    by_ingress = {
        (path["path"], path["backend"]["service"]["name"])
        for ingress in ingresses
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert by_route == by_ingress


def test_the_proxy_cuts_no_event_stream_and_no_file_that_is_verified() -> None:
    rules = of_kind(render(PRODUCTION), "HTTPRoute")["gateway"]["spec"]["rules"]
    timeouts = {rule["matches"][0]["path"]["value"]: rule["timeouts"] for rule in rules}
    assert timeouts["/v1/events"] == {"request": "0s", "backendRequest": "0s"}
    assert int(timeouts["/v1/verify"]["request"].removesuffix("s")) > CUT_OFF_SECONDS


def test_scaling_asks_for_metrics_that_the_services_have() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "services").rglob("*.py"))
    for scaled in of_kind(render(PRODUCTION), "ScaledObject").values():
        queries = [one["metadata"]["query"] for one in scaled["spec"]["triggers"] if one["type"] == "prometheus"]
        assert queries
        for metric in re.findall(r"[a-z]+(?:_[a-z]+)+", " ".join(queries)):
            assert f'"{metric}"' in sources, f"no service has {metric}"


@pytest.mark.parametrize("components", [[], ["keda"]], ids="+".join)
def test_no_number_of_replicas_is_applied_over_what_scaling_made(components: list[str], tmp_path: Path) -> None:
    """The autoscaler owns the field by then: server-side apply refuses it, and a forced one ends pods."""
    manifests = render(combination(tmp_path, components))
    scalers = [*of_kind(manifests, "HorizontalPodAutoscaler").values(), *of_kind(manifests, "ScaledObject").values()]
    scaled = [one["spec"]["scaleTargetRef"]["name"] for one in scalers]
    assert sorted(scaled) == (["gateway", "generation", "payments", "storage"] if components else ["gateway"])
    numbered = {name for name, one in of_kind(manifests, "Deployment").items() if "replicas" in one["spec"]}
    assert numbered == set(SERVICES) - set(scaled)


def test_a_restored_cluster_reads_the_old_archive_and_writes_its_own(tmp_path: Path) -> None:
    before = of_kind(render(PRODUCTION), "Cluster")["postgres"]["spec"]
    overlay = copy_of_tree(tmp_path) / "overlays/production"
    file = overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("  # - restore", "  - restore"))
    manifests = render(overlay)
    hold_against_schemas(manifests, tmp_path)
    restored = of_kind(manifests, "Cluster")["postgres"]["spec"]
    ((method, recovery),) = restored["bootstrap"].items()
    (source,), (archiver,), (archived,) = restored["externalClusters"], restored["plugins"], before["plugins"]
    assert (method, recovery["source"]) == ("recovery", source["name"])
    assert recovery["recoveryTarget"]["targetTime"]
    assert {name: recovery[name] for name in ("database", "owner")} == before["bootstrap"]["initdb"]
    read, written = source["plugin"]["parameters"], archiver["parameters"]
    assert read == {"serverName": "postgres", **archived["parameters"]}, "without a name it is that of the cluster"
    assert written == {**archived["parameters"], "serverName": written["serverName"]}
    assert written["serverName"] != read["serverName"], "the plugin refuses to archive beside another cluster's files"


def test_a_restore_applies_the_database_and_starts_no_pod_of_ours() -> None:
    """docs/restore.md applies what has no label `part-of` while the services are stopped."""
    ours = {one["kind"] for one in render(PRODUCTION) if not _selected_by_a_restore(one)}
    others = {one["kind"] for one in render(PRODUCTION) if _selected_by_a_restore(one)}
    assert {"Deployment", "Job", "CronJob"} <= ours
    assert {"Cluster", "ObjectStore", "ScheduledBackup"} <= others
    assert not others & {"Deployment", "Job", "CronJob", "HorizontalPodAutoscaler"}
    assert "-l 'app.kubernetes.io/part-of!=reelhouse'" in (ROOT / "docs/restore.md").read_text()


def test_a_backup_by_hand_is_made_like_those_of_every_night() -> None:
    by_hand = yaml.safe_load((KUBERNETES / "backup-by-hand.yaml").read_text())["spec"]
    nightly = of_kind(render(PRODUCTION), "ScheduledBackup")["postgres-daily"]["spec"]
    assert by_hand == {name: nightly[name] for name in ("cluster", "method", "pluginConfiguration")}


def test_backups_carry_no_checksum_that_r2_refuses() -> None:
    sidecar = of_kind(render(PRODUCTION), "ObjectStore")["postgres-backups"]["spec"]["instanceSidecarConfiguration"]
    assert {one["name"]: one["value"] for one in sidecar["env"]} == {
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def test_the_passwords_of_servers_are_listed_for_every_user_and_role() -> None:
    entries = _secret_entries()
    assert set(entries["reelhouse/nats-users"]) == {password_variable(user) for user in USERS}
    assert set(entries["reelhouse/postgres-roles"]) == set(all_roles())


def _selected_by_a_restore(manifest: Manifest) -> bool:
    return bool(manifest["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") != "reelhouse")


@cache
def _secret_entries() -> dict[str, list[str]]:
    entries: dict[str, list[str]] = yaml.safe_load((KUBERNETES / "secret-entries.yaml").read_text())
    return entries


def _settings_given(service: Service) -> dict[str, str]:
    """The ConfigMap of a service in production."""
    manifests = render(PRODUCTION)
    (found,) = [one["data"] for name, one in of_kind(manifests, "ConfigMap").items() if name.startswith(f"{service}-")]
    return {str(name): str(value) for name, value in found.items()}
