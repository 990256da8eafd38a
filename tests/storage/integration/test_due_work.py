"""One question finds everything that is due, and wakes the worker that it is for and no other."""

from collections.abc import Awaitable, Callable
from dataclasses import fields
from uuid import uuid4

import pytest

from storage.due_work import DueWork, WakeUps
from tests.storage.integration.conftest import StorageHarness, output_lookup, output_ready, verify_inputs
from tests.storage.integration.test_deletions import ask, stored
from tests.support.media import clip

IN_A_MINUTE = "now() + interval '1 minute'"
A_SECOND_AGO = "now() - interval '1 second'"


async def nothing(_: StorageHarness) -> None:
    pass


async def output(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    await storage.receive(output_ready(generation_id, reported))


async def lookup(storage: StorageHarness) -> None:
    await storage.receive(output_lookup(uuid4(), []))


async def output_under_way(storage: StorageHarness) -> None:
    await output(storage)
    await storage.execute(f"UPDATE storage.verifications SET leased_until = {IN_A_MINUTE}")


async def output_whose_worker_died(storage: StorageHarness) -> None:
    await output(storage)
    await storage.execute(f"UPDATE storage.verifications SET leased_until = {A_SECOND_AGO}")


async def postponed_output(storage: StorageHarness) -> None:
    await output(storage)
    await storage.execute(f"UPDATE storage.verifications SET next_try_at = {IN_A_MINUTE}")


async def answered_output(storage: StorageHarness) -> None:
    await stored(storage)


async def upload(storage: StorageHarness) -> None:
    await storage.receive(verify_inputs(uuid4(), uuid4()))


async def deletion(storage: StorageHarness) -> None:
    await ask(storage, await stored(storage))


async def previews(storage: StorageHarness) -> None:
    asset = await stored(storage)
    await storage.execute(
        "INSERT INTO storage.previews (asset_id, generation_id, user_id) "
        f"VALUES ('{asset.asset_id}', '{asset.generation_id}', '{asset.user_id}')"
    )


DUE: dict[str, tuple[Callable[[StorageHarness], Awaitable[None]], set[str]]] = {
    "nothing": (nothing, set()),
    "an output": (output, {"outputs"}),
    "a lookup": (lookup, {"outputs"}),
    "an output under way": (output_under_way, set()),
    "an output whose worker died": (output_whose_worker_died, {"outputs"}),
    "a postponed output": (postponed_output, set()),
    "an answered output": (answered_output, set()),
    "an upload": (upload, {"inputs"}),
    "a deletion": (deletion, {"deletions"}),
    "previews": (previews, {"previews"}),
}


@pytest.mark.parametrize("due", DUE)
async def test_the_workers_that_have_something_to_do_are_woken(storage: StorageHarness, due: str) -> None:
    prepare, expected = DUE[due]
    await prepare(storage)
    wake_ups = WakeUps()
    await DueWork(storage.transactions, wake_ups).wake_workers()
    assert {one.name for one in fields(wake_ups) if getattr(wake_ups, one.name).is_set()} == expected
