"""All services together, while a server is down."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from contracts.message import SERVICES
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.support.waiting import eventually


async def test_services_come_up_after_postgres_and_those_with_users_stay_without_nats(tmp_path: Path) -> None:
    supervisor = Supervisor(PlatformOptions(name="test", root=tmp_path, workers=0, follow_logs=False))
    try:
        platform = await supervisor.start()
        killed = ("postgres", *SERVICES)
        for name in killed:
            supervisor.kill(name)
        await eventually(lambda: not any(supervisor.alive(name) for name in killed), what="their end")
        async with asyncio.TaskGroup() as group, httpx.AsyncClient(trust_env=False) as http:
            for name in SERVICES:
                # Fails at once if the service dies, and at the limit if it is never ready.
                group.create_task(supervisor.revive(name))

            async def all_answer() -> bool:
                urls = [platform.processes[name].ready_url or "" for name in SERVICES]
                answers = await asyncio.gather(*(http.get(url) for url in urls), return_exceptions=True)
                return all(isinstance(one, httpx.Response) for one in answers)

            await eventually(all_answer, 30, "an answer of every service's readiness check")
            await supervisor.revive("postgres")

        async with httpx.AsyncClient(trust_env=False) as http:

            async def all_ready() -> dict[str, Any]:
                answers = {name: await http.get(platform.processes[name].ready_url or "") for name in SERVICES}
                assert all(answer.is_success for answer in answers.values()), [one.text for one in answers.values()]
                return {name: answer.json() for name, answer in answers.items()}

            ready = await eventually(all_ready, 30, "every service is ready")
        for name, answer in ready.items():
            assert {"database", "broker", "streams"} <= set(answer["checks"]), name
            assert abs(answer["facts"]["database"]["clock_offset_seconds"]) < 1
        assert "object_store" in ready["storage"]["checks"]

        supervisor.kill("nats")
        async with httpx.AsyncClient(trust_env=False) as http:

            async def the_broker_is_missed() -> dict[str, httpx.Response]:
                answers: dict[str, httpx.Response] = {
                    name: await http.get(platform.processes[name].ready_url or "") for name in SERVICES
                }
                assert all({"broker"} <= set(_missed(answer)) for answer in answers.values())
                return answers

            missing = await eventually(the_broker_is_missed, 30, "every service says that its broker is away")
        # They take requests of users, of workers and of payment providers, and keep them; the others only consume.
        assert {name for name, answer in missing.items() if answer.is_success} == {"gateway", "generation", "payments"}
    finally:
        await supervisor.stop()


def _missed(answer: httpx.Response) -> dict[str, str]:
    body = answer.json()
    return {**body["failing"], **body["degraded"]}
