"""The deployment files as a deployer gets them: rendered by the real kustomize and Compose, held by real checkers."""

import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeAlias

import jsonschema
import yaml

from contracts.message import Service
from service_runtime.settings import ServiceSettings

ROOT: Final = Path(__file__).parents[2]
KUBERNETES: Final = ROOT / "deploy/k8s"
COMPOSE: Final = ROOT / "deploy/compose"
CHECKS: Final = ROOT / "deploy/checks/.venv/bin"
KUBERNETES_VERSIONS: Final = ("1.34", "1.37")
"""The oldest that docs/deploy.md asks for, and the newest."""

Manifest: TypeAlias = dict[str, Any]
"""One object of Kubernetes, as YAML says it: every kind has another shape, which the schemas hold."""

DNS_ON_THE_NODE: Final = ("169.254.20.10/32", "169.254.169.254/32")
"""NodeLocal DNSCache, and Cloud DNS of GKE: these are no pods, so that no selector finds them."""

CHECKOV_EXCEPTIONS: Final = {
    "CKV_K8S_11": "no processor limits: they throttle an event loop long before the node is busy",
    "CKV_K8S_15": "tags are never reused, so that pulling them again brings nothing",
    "CKV_K8S_35": "services read their settings, secrets among them, from the environment",
    "CKV_K8S_43": "a release names a tag, and its migration Jobs are named by that",
}


def run(program: str, *arguments: str | Path) -> str:
    """Run a checker and return what it printed. Raises AssertionError with it if the checker is not content."""
    done = subprocess.run([CHECKS / program, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{program}: {done.stdout}\n{done.stderr}"
    return done.stdout


class _KubernetesLoader(yaml.CSafeLoader):
    """What looks like a time is text: Kubernetes reads it as JSON, which has no times."""


_KubernetesLoader.yaml_implicit_resolvers = {
    first: [one for one in found if one[0] != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@cache
def render(directory: Path) -> tuple[Manifest, ...]:
    """Everything that an overlay makes."""
    return tuple(yaml.load_all(run("kubectl", "kustomize", directory), Loader=_KubernetesLoader))


@cache
def compose_services() -> dict[str, dict[str, Any]]:
    """Every service of deploy/compose as Compose understands it."""
    parsed = run("docker-compose", "--file", COMPOSE / "compose.yaml", "config", "--format", "json")
    found: dict[str, dict[str, Any]] = json.loads(parsed)["services"]
    return found


def settings_of(service: Service) -> type[ServiceSettings]:
    """The settings class of a service."""
    settings: type[ServiceSettings] = import_module(f"{service}.settings").Settings
    return settings


def combination(work: Path, components: Sequence[str]) -> Path:
    """An overlay in a copy of the tree: the base, the given components and the release of production."""
    overlay = copy_of_tree(work) / "overlays" / "combination"
    overlay.mkdir()
    release = ("../production/release", "../../components/migrations-by-tag")
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "reelhouse",
        "resources": ["../../base"],
        "components": [*(f"../../components/{name}" for name in components), *release],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return overlay


def copy_of_tree(work: Path) -> Path:
    """deploy/k8s in a directory of its own, beside what it includes."""
    for name in ("k8s", "observability"):
        shutil.copytree(KUBERNETES.parent / name, work / name)
    return work / "k8s"


def of_kind(manifests: Iterable[Manifest], kind: str) -> dict[str, Manifest]:
    """The objects of one kind by name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


_HELD: Final[set[str]] = set()


def hold_against_schemas(manifests: Sequence[Manifest], work: Path) -> None:
    """Kubernetes' own kinds by kubernetes-validate, strictly; custom resources by deploy/k8s/schemas.

    What another rendering has had held before, to the letter, is not held again: most of it is the same everywhere.
    """
    new = {text: one for one in manifests if (text := json.dumps(one)) not in _HELD}
    own = [one for one in new.values() if not _is_custom(one)]
    (work / "own.yaml").write_text(yaml.safe_dump_all(own))
    for version in KUBERNETES_VERSIONS if own else ():
        run("kubernetes-validate", "--kubernetes-version", version, "--strict", work / "own.yaml")
    for one in new.values():
        if _is_custom(one):
            _custom_schema(one["apiVersion"], one["kind"]).validate(one)
    _HELD.update(new)


def _is_custom(manifest: Manifest) -> bool:
    group = manifest["apiVersion"].partition("/")[0]
    return ("." in group and not group.endswith(".k8s.io")) or group == "gateway.networking.k8s.io"


@cache
def _custom_schema(api_version: str, kind: str) -> jsonschema.Draft7Validator:
    group, _, version = api_version.partition("/")
    schema = json.loads((KUBERNETES / "schemas" / group / f"{kind.lower()}_{version}.json").read_text())
    _forbid_unknown(schema["properties"]["spec"])
    return jsonschema.Draft7Validator(schema)


def _forbid_unknown(schema: Manifest) -> None:
    """The published schemas let unknown fields pass; a misspelt one is what this check is for."""
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    inner = list(schema.get("properties", {}).values())
    inner += [schema["items"]] if isinstance(schema.get("items"), dict) else []
    for one in inner:
        _forbid_unknown(one)


@dataclass(frozen=True)
class Policies:
    """The edges that the NetworkPolicies of a rendering allow, as (from, to, port)."""

    edges: frozenset[tuple[str, str, str]]

    @classmethod
    def of(cls, manifests: Sequence[Manifest], pods: Sequence[Manifest]) -> "Policies":
        """Read every policy; ``pods`` are the pod templates that selectors are matched with."""
        edges: set[tuple[str, str, str]] = set()
        for policy in of_kind(manifests, "NetworkPolicy").values():
            selected = [pod["labels"]["app.kubernetes.io/name"] for pod in pods if _selects(policy, pod["labels"])]
            for rule in policy["spec"].get("egress", []):
                edges |= {(pod, _peer(to), str(port["port"])) for pod in selected for to, port in _pairs(rule, "to")}
            for rule in policy["spec"].get("ingress", []):
                edges |= {(_peer(to), pod, str(port["port"])) for pod in selected for to, port in _pairs(rule, "from")}
        return cls(frozenset(edges))


def _selects(policy: Manifest, labels: dict[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        (labels.get(one["key"]) in one["values"]) is (one["operator"] == "In")
        for one in selector.get("matchExpressions", [])
    )


def _pairs(rule: Manifest, side: str) -> list[tuple[Manifest, Manifest]]:
    return [(peer, port) for peer in rule[side] for port in rule["ports"]]


def _peer(peer: Manifest) -> str:
    if "ipBlock" in peer:
        if peer["ipBlock"]["cidr"] in DNS_ON_THE_NODE:
            return "kube-system"
        assert peer["ipBlock"]["cidr"] == "0.0.0.0/0"
        assert "169.254.0.0/16" in peer["ipBlock"]["except"], "the node's metadata service must stay out of reach"
        return "internet"
    selector = peer.get("podSelector", peer.get("namespaceSelector"))
    assert selector is not None
    ((key, value),) = selector["matchLabels"].items()
    return {"cnpg.io/cluster": "postgres", "reelhouse.example/edge-proxy": "edge-proxy"}.get(key, str(value))
