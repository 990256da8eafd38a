"""Webhooks of the emulator: their content, their tries, and their faults on request."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.local_platform.runpod import RunPodHarness, WebhookReceiver, receiving_webhooks, running_emulator
from tests.support.waiting import eventually


@pytest.fixture
async def runpod() -> AsyncIterator[RunPodHarness]:
    async with running_emulator(webhook_retry_seconds=0.1) as runpod:
        yield runpod


@pytest.fixture
async def hook() -> AsyncIterator[WebhookReceiver]:
    async with receiving_webhooks() as hook:
        yield hook


async def finish(runpod: RunPodHarness, hook: WebhookReceiver, count: int = 1) -> list[str]:
    """Run and complete jobs with a webhook, one after the other."""
    ids = []
    for number in range(count):
        await runpod.run({"n": number}, webhook=hook.url)
        ids.append(await runpod.worker().do(number))
    return ids


async def counted(runpod: RunPodHarness, **counts: int) -> None:
    async def reached() -> bool:
        found = (await runpod.requests())["webhooks"]
        assert {key: found[key] for key in counts} == counts
        return True

    await eventually(reached, what="the deliveries")


async def test_a_webhook_contains_result_input_and_address(runpod: RunPodHarness, hook: WebhookReceiver) -> None:
    [job_id] = await finish(runpod, hook)
    [body] = await hook.arrived(1)
    assert body.keys() == {"id", "status", "delayTime", "executionTime", "input", "output", "webhook"}
    assert (body["id"], body["status"], body["input"], body["webhook"]) == (job_id, "COMPLETED", {"n": 0}, hook.url)


async def test_the_webhook_of_a_failed_job_contains_its_error(runpod: RunPodHarness, hook: WebhookReceiver) -> None:
    job_id = await runpod.run(webhook=hook.url)
    worker = runpod.worker()
    await worker.take()
    await worker.post(job_id, {"error": "broken"})
    [body] = await hook.arrived(1)
    assert (body["status"], body["error"]) == ("FAILED", "broken")


async def test_a_cancelled_job_fires_a_webhook_only_if_configured(runpod: RunPodHarness, hook: WebhookReceiver) -> None:
    await runpod.call("POST", f"cancel/{await runpod.run(webhook=hook.url)}")
    await runpod.settings(webhook_statuses=["CANCELLED"])
    await runpod.call("POST", f"cancel/{await runpod.run({'n': 2}, webhook=hook.url)}")
    [body] = await hook.arrived(1)
    assert (body["status"], body["input"]) == ("CANCELLED", {"n": 2})


@pytest.mark.parametrize(("answers", "tries"), [([], 1), ([500], 2), ([201, 500], 3), ([500] * 9, 3)])
async def test_only_200_ends_the_three_tries(
    runpod: RunPodHarness, hook: WebhookReceiver, answers: list[int], tries: int
) -> None:
    hook.answers = answers
    began = time.monotonic()
    await finish(runpod, hook)
    await counted(runpod, deliveries=1, tries=tries, given_up=int(len(answers) > 3), delivered=int(len(answers) <= 3))
    assert len(hook.received) == tries
    assert time.monotonic() - began >= 0.1 * (tries - 1)


async def test_an_unreachable_webhook_gets_three_tries(runpod: RunPodHarness) -> None:
    await finish(runpod, WebhookReceiver("http://127.0.0.1:9/nobody"))
    await counted(runpod, tries=3, given_up=1)


async def test_a_dropped_webhook_is_never_tried(runpod: RunPodHarness, hook: WebhookReceiver) -> None:
    await runpod.rule("drop_webhook", count=2)
    ids = await finish(runpod, hook, 3)
    await counted(runpod, dropped=2, tries=1)
    assert [body["id"] for body in await hook.arrived(1)] == ids[2:]


async def test_a_doubled_webhook_comes_as_often_as_configured(runpod: RunPodHarness, hook: WebhookReceiver) -> None:
    await runpod.rule("double_webhook", copies=4, count=1)
    ids = await finish(runpod, hook, 2)
    await counted(runpod, delivered=5)
    assert sorted(body["id"] for body in hook.received) == sorted([ids[0]] * 4 + ids[1:])


async def test_a_delayed_webhook_is_overtaken(runpod: RunPodHarness, hook: WebhookReceiver) -> None:
    await runpod.rule("delay_webhook", delay_seconds=2, input={"n": 0})
    ids = await finish(runpod, hook, 2)
    assert [body["id"] for body in await hook.arrived(2)] == ids[::-1]


async def test_reordered_webhooks_come_in_reverse(runpod: RunPodHarness, hook: WebhookReceiver) -> None:
    await runpod.rule("reorder_webhooks", delay_seconds=3)
    ids = await finish(runpod, hook, 4)
    assert [body["id"] for body in await hook.arrived(4)] == ids[::-1]


async def test_a_slow_receiver_delays_no_other_webhook(runpod: RunPodHarness, hook: WebhookReceiver) -> None:
    await runpod.rule("delay_webhook", delay_seconds=60)
    await finish(runpod, hook, 3)
    async with asyncio.timeout(5):
        await finish(runpod, WebhookReceiver("http://127.0.0.1:9/nobody"), 3)
