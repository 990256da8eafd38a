"""What the ops listener says."""

import asyncio

import httpx
import pytest

from service_runtime.health import Health, ops_app


class Stuck:
    name = "consumer"
    heartbeat_limit_seconds = 30.0

    def heartbeat_age_seconds(self) -> float:
        return 31.0


class Silent:
    name = "plain"


def client(health: Health) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(ops_app(health)), base_url="http://ops")


async def fine() -> None:
    pass


async def broken() -> None:
    raise ConnectionError("no route to postgresql://a:hunter22@db")


async def no() -> bool:
    return False


async def hanging() -> None:
    await asyncio.Event().wait()


async def test_a_service_is_not_ready_before_it_has_started_and_after_it_was_told_to_stop() -> None:
    health = Health({"database": fine}, [])
    async with client(health) as ops:
        assert (await ops.get("/readyz")).status_code == 503
        health.ready = True
        assert (await ops.get("/readyz")).status_code == 200
        health.ready, health.reason = False, "stopping"
        assert (await ops.get("/readyz")).json()["failing"] == {"lifecycle": "stopping"}


async def test_readiness_names_every_failing_check_and_waits_for_none_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_runtime.health.CHECK_TIMEOUT_SECONDS", 0.05)
    health = Health({"a": fine, "b": broken, "c": no, "d": hanging}, [])
    health.ready = True
    async with client(health) as ops:
        response = await ops.get("/readyz")
    assert response.status_code == 503
    failing = response.json()["failing"]
    assert set(failing) == {"b", "c", "d"}
    assert "no route" in failing["b"]
    assert "hunter22" not in failing["b"]
    assert failing["d"] == "no answer within 0.05 s"


async def test_what_degrades_a_service_fails_readiness_until_it_was_whole_once() -> None:
    broker = broken

    async def ask_broker() -> None:
        await broker()

    health = Health({"database": fine}, [], degraded_by={"broker": ask_broker})
    health.ready = True
    async with client(health) as ops:
        answer = await ops.get("/readyz")
        assert answer.status_code == 503
        assert set(answer.json()["failing"]) == {"broker"}
        broker = fine
        assert (await ops.get("/readyz")).status_code == 200
        broker = broken
        answer = await ops.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["failing"] == {}
        assert "no route" in answer.json()["degraded"]["broker"]
        health.ready = False
        assert (await ops.get("/readyz")).status_code == 503


async def test_a_component_without_a_heartbeat_makes_the_process_not_alive() -> None:
    async with client(Health({}, [Silent()])) as ops:
        assert (await ops.get("/livez")).status_code == 200
    async with client(Health({}, [Silent(), Stuck()])) as ops:
        response = await ops.get("/livez")
    assert response.status_code == 503
    assert response.json()["stuck"] == {"consumer": "no heartbeat for 31 s"}


async def test_metrics_are_in_the_text_format_of_prometheus() -> None:
    async with client(Health({}, [])) as ops:
        response = await ops.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "process_resident_memory_bytes" in response.text
