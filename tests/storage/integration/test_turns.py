"""Which user's file is verified next."""

import asyncio
from collections import Counter
from uuid import UUID, uuid4

from messaging.leases import LEASE
from storage import repository
from storage.due_work import INPUT_SUBJECTS
from tests.storage.integration.conftest import StorageHarness, verify_inputs


async def request(storage: StorageHarness, user_id: UUID, count: int) -> None:
    """A user places ``count`` orders with one upload each."""
    for _ in range(count):
        await storage.receive(verify_inputs(user_id, uuid4()))


async def claim(storage: StorageHarness, slots: int) -> list[UUID]:
    """The users whose requests a replica claims when it has this many free slots."""
    async with storage.transactions.begin() as tx:
        claims = await repository.claim_due(tx.connection, INPUT_SUBJECTS, slots, LEASE)
    return [one.user_id for one in claims]


async def test_a_user_with_many_requests_delays_no_other_user(storage: StorageHarness) -> None:
    greedy, modest = uuid4(), uuid4()
    await request(storage, greedy, 30)
    assert await claim(storage, 2) == [greedy, greedy]
    await request(storage, modest, 3)
    # The greedy user has two in progress, and all of their requests are older.
    assert await claim(storage, 1) == [modest]
    assert await claim(storage, 1) == [modest]
    assert Counter(await claim(storage, 2)) == {greedy: 1, modest: 1}


async def test_requests_of_one_user_are_claimed_oldest_first(storage: StorageHarness) -> None:
    only = uuid4()
    requests = [verify_inputs(only, uuid4()) for _ in range(5)]
    for one in requests:
        await storage.receive(one)
    claimed: list[UUID] = []
    for _ in requests:
        async with storage.transactions.begin() as tx:
            claims = await repository.claim_due(tx.connection, INPUT_SUBJECTS, 1, LEASE)
        claimed += [one.generation_id for one in claims]
    assert claimed == [one.generation_id for one in requests]


async def test_replicas_that_claim_at_once_get_each_request_once(storage: StorageHarness) -> None:
    users = [uuid4() for _ in range(4)]
    for user_id in users:
        await request(storage, user_id, 10)
    claimed: list[UUID] = []
    while round_ := await asyncio.gather(*(claim(storage, 3) for _ in range(5))):
        if not any(round_):
            break
        claimed += [user_id for claims in round_ for user_id in claims]
    assert Counter(claimed) == dict.fromkeys(users, 10)
