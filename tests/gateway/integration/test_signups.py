"""Credits for signing up: once for each user, for those who really signed up, and shown at once."""

import asyncio
from typing import Any
from uuid import UUID

from billing.commands import grant
from contracts.billing import GrantSignupCredits, signup_grant_id
from gateway import repository
from messaging.ids import new_id
from tests.gateway.harness import Client, GatewayHarness
from tests.gateway.integration.test_grants import granted, settings


async def available(user: Client) -> int:
    answer = await user.get("/v1/balance")
    assert answer.status_code == 200
    credits: int = answer.json()["available_credits"]
    return credits


async def signups(harness: GatewayHarness) -> list[Any]:
    return list(await harness.rows("SELECT user_id FROM gateway.signups"))


async def test_the_first_answer_to_a_new_user_shows_the_credits_and_only_once(harness: GatewayHarness) -> None:
    changed: dict[str, Any] = {"signup_credits": 50, "verdict_wait_seconds": 30}
    replicas = [await harness.gateway(**changed) for _ in range(2)]
    await harness.billing(max_signup_credits=50)
    user_id = new_id()
    # A page opens with several requests at once, and they meet all replicas.
    tabs = [harness.user(replicas[number % 2], user_id) for number in range(8)]
    assert await asyncio.gather(*(available(user) for user in tabs)) == [50] * 8
    statement = (await tabs[0].get("/v1/ledger")).json()["items"]
    assert [(line["reason"], line["available_delta_credits"]) for line in statement] == [("signup", 50)]
    assert await signups(harness) == [(user_id,)]
    (grant_id,) = (await harness.rows("SELECT grant_id FROM billing.grants"))[0]
    assert grant_id == signup_grant_id(user_id)
    # Another replica, later: it is not a new user.
    assert await available(harness.user(await harness.gateway(**changed), user_id)) == 50


async def test_only_new_users_with_a_confirmed_address_are_credited(harness: GatewayHarness) -> None:
    replica = await harness.gateway(
        signup_credits=50, max_signups_per_day=1, allow_anonymous_users=True, verdict_wait_seconds=30
    )
    await harness.billing(max_signup_credits=50)
    for claims in ({"is_anonymous": True}, {"user_metadata": {"email_verified": False}}, {"email_verified": False}):
        assert await available(harness.user(replica, **claims)) == 0
    known = granted(new_id())
    assert await grant(settings(harness), known, 30) == 0
    assert await available(harness.user(replica, known.user_id)) == known.amount_credits
    assert await signups(harness) == []

    assert await available(harness.user(replica)) == 50
    one_too_many = harness.user(replica)
    assert await available(one_too_many) == 0
    assert len(await signups(harness)) == 1, "the day's sign-ups are used up"


async def test_nobody_is_credited_for_signing_up_unless_it_is_set(harness: GatewayHarness) -> None:
    replica = await harness.gateway()
    assert await available(harness.user(replica)) == 0
    sent = "SELECT 1 FROM gateway.outbox_messages WHERE subject = :subject"
    assert await harness.rows(sent, subject=GrantSignupCredits.subject) == []
    assert await signups(harness) == []


async def test_replicas_that_record_a_user_at_the_same_instant_record_one_signup(harness: GatewayHarness) -> None:
    engine = harness.database.engine("gateway", pool_size=8)

    async def record(user_id: UUID) -> bool:
        async with engine.begin() as connection:
            return await repository.add_signup(connection, user_id, signup_grant_id(user_id), 50, 1_000_000)

    for _ in range(60):
        user_id = new_id()
        assert sorted(await asyncio.gather(*(record(user_id) for _ in range(8)))) == [False] * 7 + [True]
