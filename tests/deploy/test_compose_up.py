"""deploy/compose as its user starts it: every container, and one order through all of them.

It takes the ports of this machine that the file names. Skipped, and loudly, where no engine answers. Where the engine
reaches no registry (``make images-local``), programs of packages take the place of the servers' images.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any, Final
from uuid import uuid4

import docker
import httpx
import pytest

from contracts.message import SERVICES, Service
from tests.deploy.engine import OWN_BASE_IMAGE, TAG, build
from tests.deploy.manifests import CHECKS, COMPOSE, compose_services
from tests.support.waiting import eventually

STAND_INS: Final = {
    "postgres": "postgres",
    "nats": "nats",
    "s3": "weed",
    "prometheus": "prometheus",
    "collector": "nothing",
    "jaeger": "nothing",
    "grafana": "nothing",
}
"""The program in the image that takes the place of each server's; no package brings the last three."""
GATEWAY: Final = "http://localhost:8101"
IDENTITY: Final = "http://localhost:9999"
PROMETHEUS: Final = "http://localhost:9090"

pytestmark = pytest.mark.timeout(1200)


class ComposeHarness:
    """The project of one test."""

    def __init__(self) -> None:
        self._project = f"reelhouse-{uuid4().hex[:8]}"

    def run(self, *arguments: str) -> str:
        """What Compose printed. Raises AssertionError with it if Compose is not content."""
        command = [str(CHECKS / "docker-compose"), "--project-name", self._project]
        command += ["--file", str(COMPOSE / "compose.yaml")]
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env={**os.environ, "TAG": TAG},
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def containers(self) -> dict[str, dict[str, Any]]:
        """Every container by its service."""
        lines = self.run("ps", "--all", "--format", "json").splitlines()
        return {one["Service"]: one for one in map(json.loads, lines)}

    async def settled(self) -> bool:
        """Whether every container does what it is for: it runs, is healthy if it says so, or has done its work."""
        found = self.containers()
        wrong = {name: one["Status"] for name, one in found.items() if not _is_well(name, one)}
        assert not wrong
        return set(found) == set(compose_services())


def _is_well(name: str, container: dict[str, Any]) -> bool:
    one_shot = name.startswith("migrate-") or name in ("buckets", "streams", "roles")
    if one_shot:
        return (container["State"], container["ExitCode"]) == ("exited", 0)
    has_check = "healthcheck" in compose_services()[name]
    return container["State"] == "running" and (container["Health"] == "healthy" or not has_check)


@pytest.fixture
def compose(engine: docker.DockerClient, images: dict[Service, str]) -> Iterator[ComposeHarness]:
    """All images, and a project that is removed with its volumes."""
    assert set(images) == set(SERVICES)
    local = build(engine, f"reelhouse/local:{TAG}", "deploy/images/Dockerfile.local")
    build(engine, f"reelhouse/worker-preview:{TAG}", "Dockerfile", "gpu-endpoint")
    if OWN_BASE_IMAGE:
        for name, program in STAND_INS.items():
            image = compose_services()[name]["image"]
            build(engine, image, "Dockerfile", "tests/deploy/stand_ins", LOCAL_IMAGE=local, PROGRAM=program)
    harness = ComposeHarness()
    yield harness
    harness.run("down", "--volumes", "--timeout", "20")


async def test_compose_starts_everything_and_an_order_is_delivered(compose: ComposeHarness) -> None:
    compose.run("up", "--detach", "--no-build")
    await eventually(compose.settled, 300, "every container runs, is healthy, or has done its work")
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        address = f"{IDENTITY}/auth/v1/token?grant_type=password"
        signed_in = (await http.post(address, json={"email": "me@example.test", "plan": "pro"})).json()
        http.headers["Authorization"] = f"Bearer {signed_in['access_token']}"

        bought = await _post(http, "/v1/payments", {"pack_id": "starter", "provider": "btcpay"})
        link = await eventually(
            partial(_shown, http, f"/v1/payments/{bought['id']}", "checkout_url"), 60, "the checkout"
        )
        paid = await http.post(link)
        assert paid.status_code < 400, paid.text
        await eventually(partial(_shows, http, "/v1/balance", "available_credits", 1000), 60, "the credits")

        order = {"model_id": "flux-schnell", "parameters": {"prompt": "a paper boat"}}
        placed = await _post(http, "/v1/generations", order)
        path = f"/v1/generations/{placed['id']}"
        await eventually(partial(_shows, http, path, "status", "completed"), 300, "the picture")
        left = 1000 - placed["price_credits"]
        await eventually(partial(_shows, http, "/v1/balance", "available_credits", left), 30, "the charge")

        await eventually(partial(_all_are_scraped, http), 60, "a scrape of every service")
    if OWN_BASE_IMAGE:
        await eventually(partial(_received_traces, compose), 30, "traces at the collector")


async def _post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post(f"{GATEWAY}{path}", json=body, headers={"Idempotency-Key": str(uuid4())})
    assert answer.is_success, answer.text
    return dict(answer.json())


async def _shows(http: httpx.AsyncClient, path: str, field: str, wanted: object) -> bool:
    return bool(await _shown(http, path, field) == wanted)


async def _shown(http: httpx.AsyncClient, path: str, field: str) -> Any:
    answer = await http.get(f"{GATEWAY}{path}")
    assert answer.is_success, answer.text
    return answer.json()[field]


async def _all_are_scraped(http: httpx.AsyncClient) -> bool:
    targets = (await http.get(f"{PROMETHEUS}/api/v1/targets")).json()["data"]["activeTargets"]
    return {one["labels"]["service"] for one in targets if one["health"] == "up"} == set(SERVICES)


async def _received_traces(compose: ComposeHarness) -> bool:
    return "bytes at /v1/traces" in compose.run("logs", "collector")
