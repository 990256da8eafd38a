"""Whose file is looked at next."""

import asyncio
from collections import Counter
from uuid import UUID, uuid4

from contracts.storage import VerifyInputs
from storage import repository
from storage.worker import INPUT_QUESTIONS, LEASE
from tests.storage.integration.conftest import Desk


async def ask(desk: Desk, user_id: UUID, questions: int) -> None:
    """A user orders with one upload each."""
    for _ in range(questions):
        await desk.receive(VerifyInputs(generation_id=uuid4(), user_id=user_id, uploads={"image": uuid4()}))


async def claim(desk: Desk, room: int) -> list[UUID]:
    """Whose questions a replica takes up when it has so much room."""
    async with desk.transactions.begin() as tx:
        claims = await repository.claim_due(tx.connection, INPUT_QUESTIONS, room, LEASE)
    return [one.user_id for one in claims]


async def test_a_user_with_many_questions_holds_up_nobody_elses(desk: Desk) -> None:
    greedy, modest = uuid4(), uuid4()
    await ask(desk, greedy, 30)
    assert await claim(desk, 2) == [greedy, greedy]
    await ask(desk, modest, 3)
    # The greedy one has two under way, and all that it asked is older.
    assert await claim(desk, 1) == [modest]
    assert await claim(desk, 1) == [modest]
    assert Counter(await claim(desk, 2)) == {greedy: 1, modest: 1}


async def test_one_users_questions_are_taken_up_in_the_order_in_which_they_were_asked(desk: Desk) -> None:
    only = uuid4()
    asked = [VerifyInputs(generation_id=uuid4(), user_id=only, uploads={"image": uuid4()}) for _ in range(5)]
    for question in asked:
        await desk.receive(question)
    taken = []
    for _ in asked:
        async with desk.transactions.begin() as tx:
            claims = await repository.claim_due(tx.connection, INPUT_QUESTIONS, 1, LEASE)
        taken += [one.generation_id for one in claims]
    assert taken == [question.generation_id for question in asked]


async def test_replicas_that_claim_at_once_take_each_question_once(desk: Desk) -> None:
    users = [uuid4() for _ in range(4)]
    for user_id in users:
        await ask(desk, user_id, 10)
    taken: list[UUID] = []
    while round_ := await asyncio.gather(*(claim(desk, 3) for _ in range(5))):
        if not any(round_):
            break
        taken += [user_id for claims in round_ for user_id in claims]
    assert Counter(taken) == dict.fromkeys(users, 10)


async def test_a_question_of_the_version_before_has_its_turn(desk: Desk) -> None:
    """Its replicas did not write whose it is."""
    await ask(desk, uuid4(), 5)
    await ask(desk, uuid4(), 1)
    async with desk.transactions.begin() as tx:
        await tx.connection.exec_driver_sql("UPDATE storage.verifications SET user_id = NULL")
    assert await claim(desk, 10) == [None] * 6
