"""``python -m gpu_endpoint.deploy`` as a process against the emulator's management API."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gpu_endpoint.worker import GPU_ENDPOINT, PYTHON, needs_environment
from tests.local_platform.runpod import API_KEY, RunPodHarness, running_emulator
from tests.support.waiting import eventually

pytestmark = needs_environment

DONE, FAILED, DIFFERS = 0, 1, 2


@dataclass
class DeployHarness:
    """One description, one state file and one account at the emulator."""

    runpod: RunPodHarness
    directory: Path

    @property
    def description(self) -> Path:
        return self.directory / "endpoint.toml"

    @property
    def state(self) -> Path:
        return self.directory / "endpoint.state.json"

    def edit(self, old: str, new: str) -> None:
        text = self.description.read_text()
        assert old in text
        self.description.write_text(text.replace(old, new))

    async def command(self, *arguments: str, key: str = API_KEY) -> tuple[int, str]:
        """The code and all that was printed."""
        process = await asyncio.create_subprocess_exec(
            PYTHON,
            *("-m", "gpu_endpoint.deploy", *arguments, str(self.description)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                "PATH": os.environ["PATH"],
                "RUNPOD_API_KEY": key,
                "RUNPOD_REST_V1_URL": f"{self.runpod.url}/v1",
                "RUNPOD_REST_V2_URL": f"{self.runpod.url}/v2",
            },
        )
        printed, _ = await process.communicate()
        assert process.returncode is not None
        assert API_KEY not in printed.decode()
        return process.returncode, printed.decode()

    async def applied(self) -> str:
        code, printed = await self.command("apply")
        assert code == DONE, printed
        return printed

    async def rest(self, method: str, path: str, **body: Any) -> Any:
        answer = await self.runpod.http.request(
            method,
            f"{self.runpod.url}/v1/{path}",
            json=body or None,
            params={"includeEndpointBoundTemplates": "true"} if method == "GET" else None,
        )
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def only(self, collection: str) -> dict[str, Any]:
        [thing] = await self.rest("GET", collection)
        return dict(thing)

    async def requests(self, operation: str) -> int:
        answers = (await self.runpod.requests())["answers"]
        return sum(answers.get(operation, {}).values())


@pytest.fixture
async def deploy(tmp_path: Path) -> AsyncIterator[DeployHarness]:
    async with running_emulator() as runpod:
        harness = DeployHarness(runpod, tmp_path)
        harness.description.write_text((GPU_ENDPOINT / "endpoint.example.toml").read_text())
        yield harness


async def test_apply_creates_all_that_plan_announces(deploy: DeployHarness) -> None:
    code, printed = await deploy.command("plan")
    assert code == DIFFERS
    assert printed.count("would be created") == 3
    assert await deploy.requests("rest-create") == 0

    await deploy.applied()
    volume, template, endpoint = [await deploy.only(kind) for kind in ("networkvolumes", "templates", "endpoints")]
    assert endpoint["templateId"] == template["id"]
    assert endpoint["networkVolumeId"] == volume["id"]
    assert endpoint["dataCenterIds"] == volume["dataCenterId"]
    assert endpoint["gpuTypeIds"][0] == "NVIDIA GeForce RTX 4090"
    assert endpoint["executionTimeoutMs"] == 1_200_000
    assert template["env"] == {"RENDERER": "comfyui"}
    assert template["isServerless"] is True


async def test_a_second_apply_changes_nothing(deploy: DeployHarness) -> None:
    await deploy.applied()
    assert (await deploy.applied()).count("as described") == 3
    assert (await deploy.command("plan"))[0] == DONE
    assert await deploy.requests("rest-create") == 3
    assert await deploy.requests("rest-change") == 0


async def test_drift_is_shown_by_field_and_only_it_is_sent(deploy: DeployHarness) -> None:
    await deploy.applied()
    endpoint, template = await deploy.only("endpoints"), await deploy.only("templates")
    await deploy.rest("PATCH", f"endpoints/{endpoint['id']}", workersMax=0, idleTimeout=7)
    await deploy.rest("PATCH", f"templates/{template['id']}", env={"RENDERER": "preview", "TOKEN": "hunter2"})

    code, printed = await deploy.command("plan")
    assert code == DIFFERS
    assert "workersMax: 0 -> 5" in printed
    assert "idleTimeout: 7 -> 30" in printed
    assert "env.RENDERER: differs" in printed
    assert "env.TOKEN: not in the description" in printed
    assert "hunter2" not in printed
    assert "gpuTypeIds" not in printed

    await deploy.applied()
    assert (await deploy.command("plan"))[0] == DONE
    assert (await deploy.only("endpoints"))["workersMax"] == 5
    assert (await deploy.only("templates"))["env"] == {"RENDERER": "comfyui"}


async def test_a_field_that_runpod_hides_is_sent_when_it_changes(deploy: DeployHarness) -> None:
    await deploy.applied()
    deploy.edit("flashboot = true", "flashboot = false")
    code, printed = await deploy.command("plan")
    assert code == DIFFERS
    assert "flashboot: RunPod does not show it" in printed
    await deploy.applied()
    assert (await deploy.command("plan"))[0] == DONE


async def test_a_lost_state_file_is_made_again_by_name(deploy: DeployHarness) -> None:
    await deploy.applied()
    deploy.state.unlink()
    await deploy.applied()
    assert await deploy.requests("rest-create") == 3
    things = json.loads(deploy.state.read_text())["things"]
    assert things["endpoints/reelhouse-video"]["id"] == (await deploy.only("endpoints"))["id"]


async def test_the_suffix_of_flashboot_is_no_other_name(deploy: DeployHarness) -> None:
    await deploy.applied()
    endpoint = await deploy.only("endpoints")
    await deploy.rest("PATCH", f"endpoints/{endpoint['id']}", name=f"{endpoint['name']} -fb")
    assert (await deploy.command("plan"))[0] == DONE
    deploy.state.unlink()
    await deploy.applied()
    assert await deploy.requests("rest-create") == 3


async def test_two_of_one_name_are_refused_without_an_id(deploy: DeployHarness) -> None:
    await deploy.applied()
    volume = await deploy.only("networkvolumes")
    await deploy.rest("POST", "networkvolumes", name=volume["name"], size=10, dataCenterId="US-KS-2")
    assert (await deploy.command("plan"))[0] == DONE, "the id is known"

    deploy.state.unlink()
    code, printed = await deploy.command("apply")
    assert code == FAILED
    assert "Ambiguous" in printed
    assert volume["id"] in printed
    assert await deploy.requests("rest-change") == 0


async def test_a_lost_answer_to_a_creation_makes_no_second_one(deploy: DeployHarness) -> None:
    await deploy.runpod.rule("accept_then_reset", operation="rest-create", count=1)
    code, printed = await deploy.command("apply")
    assert code == FAILED
    assert "It may have been created" in printed
    await deploy.applied()
    assert (await deploy.only("networkvolumes"))["size"] == 250


async def test_too_many_requests_are_repeated_as_asked(deploy: DeployHarness) -> None:
    for operation in ("rest-read", "rest-create"):
        await deploy.runpod.rule("answer_error", operation=operation, count=2, http_status=429, retry_after_seconds=0)
    await deploy.applied()
    assert (await deploy.runpod.requests())["answers"]["rest-create"] == {"429": 2, "201": 3}


async def test_what_is_gone_is_created_again(deploy: DeployHarness) -> None:
    await deploy.applied()
    old = await deploy.only("endpoints")
    await deploy.rest("DELETE", f"endpoints/{old['id']}")
    assert "endpoints/reelhouse-video (endpoint4): created" in await deploy.applied()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size_gb = 250", "size_gb = 100", "cannot shrink"),
        ('data_centre = "EU-RO-1"', 'data_centre = "US-KS-2"', "dataCenterId cannot be changed"),
        ("workers_min = 0", "workers_min = 9", "larger than endpoint.workers_max"),
        ("workers_min = 0", "workers_minimum = 0", "workers_minimum"),
        ("workers_min = 0", 'data_centres = ["US-KS-2"]', "must be absent where there are volumes"),
    ],
)
async def test_what_cannot_be_is_refused(deploy: DeployHarness, old: str, new: str, words: str) -> None:
    await deploy.applied()
    deploy.edit(old, new)
    code, printed = await deploy.command("apply")
    assert code == FAILED
    assert words in printed
    assert await deploy.requests("rest-change") == 0


async def test_a_wrong_key_is_told_and_not_printed(deploy: DeployHarness) -> None:
    code, printed = await deploy.command("plan", key="another-secret")
    assert code == FAILED
    assert "401" in printed
    assert "another-secret" not in printed


async def test_status_waits_until_no_worker_is_stale(deploy: DeployHarness) -> None:
    await deploy.applied()
    deploy.runpod.endpoint = (await deploy.only("endpoints"))["id"]
    old = deploy.runpod.worker("old")
    await old.take()
    deploy.edit("2026-11-26", "2026-11-27")
    await deploy.applied()
    polls = await deploy.requests("rest-workers")
    waiting = asyncio.create_task(deploy.command("status", "--wait", "40"))

    async def looked() -> bool:
        return await deploy.requests("rest-workers") > polls

    await eventually(looked, what="the first look")
    # The old one is gone a second after its last sign of life.
    await deploy.runpod.settings(worker_lease_seconds=1)
    await old.take()
    await deploy.runpod.settings(worker_lease_seconds=35)
    await deploy.runpod.worker("new").take()
    code, printed = await waiting
    assert code == DONE, printed
    assert "1 workers: 1 IDLE; 1 stale" in printed
    assert printed.strip().endswith("; 0 stale")


async def test_status_gives_up_after_its_time(deploy: DeployHarness) -> None:
    await deploy.applied()
    deploy.runpod.endpoint = (await deploy.only("endpoints"))["id"]
    await deploy.runpod.worker("old").take()
    deploy.edit("2026-11-26", "2026-11-27")
    await deploy.applied()
    code, printed = await deploy.command("status", "--wait", "0.5")
    assert code == DIFFERS
    assert "1 stale" in printed


async def test_status_names_workers_that_cannot_work(deploy: DeployHarness) -> None:
    await deploy.applied()
    await deploy.runpod.settings(unavailable_workers={"THROTTLED": 2})
    code, printed = await deploy.command("status")
    assert code == DIFFERS
    assert "2 workers: 2 THROTTLED; 0 stale" in printed


async def test_status_tells_that_runpod_lowered_the_workers(deploy: DeployHarness) -> None:
    await deploy.applied()
    await deploy.rest("PATCH", f"endpoints/{(await deploy.only('endpoints'))['id']}", workersMax=0)
    code, printed = await deploy.command("status")
    assert code == DIFFERS
    assert "workersMax is 0" in printed
