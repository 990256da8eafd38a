"""Bodies that carry files are leased work, and processes of the release before that may run beside this one."""

from datetime import timedelta

import sqlalchemy as sa

from generation.repository.callbacks import claim_carriers, lock_due_callbacks
from tests.generation.carriers import CarrierCase, add_carriers
from tests.generation.harness import GenerationHarness
from tests.messaging.leases.conformance import LeaseConformance

LEASE = timedelta(minutes=1)

PREVIOUS_LOCK_DUE = sa.text("""
    SELECT callback_id, tries FROM generation.provider_callbacks
    WHERE processed_at IS NULL AND due_at <= clock_timestamp() ORDER BY due_at LIMIT 50 FOR UPDATE SKIP LOCKED
""")
PREVIOUS_LEASE = sa.text("""
    UPDATE generation.provider_callbacks SET tries = tries + 1, due_at = clock_timestamp() + interval '5 minutes'
    WHERE callback_id = :callback_id AND processed_at IS NULL
""")
PREVIOUS_HOLD = sa.text("""
    UPDATE generation.provider_callbacks SET due_at = clock_timestamp() + interval '5 minutes'
    WHERE callback_id = :callback_id AND tries = :lease AND processed_at IS NULL
""")


class TestCallbackLeases(LeaseConformance):
    """Kill and freeze in each step."""

    case = CarrierCase


async def test_a_body_that_the_previous_release_has_leased_is_not_claimed(harness: GenerationHarness) -> None:
    async with harness.engine.begin() as connection:
        await add_carriers(connection, 1)
        [row] = (await connection.execute(PREVIOUS_LOCK_DUE)).all()
        await connection.execute(PREVIOUS_LEASE, {"callback_id": row.callback_id})
        assert await claim_carriers(connection, 10, LEASE) == []
        held = await connection.execute(PREVIOUS_HOLD, {"callback_id": row.callback_id, "lease": row.tries + 1})
        assert held.rowcount == 1


async def test_the_previous_release_loses_a_body_that_is_claimed_after_its_lease(harness: GenerationHarness) -> None:
    async with harness.engine.begin() as connection:
        await add_carriers(connection, 1)
        [row] = (await connection.execute(PREVIOUS_LOCK_DUE)).all()
        await connection.execute(PREVIOUS_LEASE, {"callback_id": row.callback_id})
    await harness.execute("UPDATE generation.provider_callbacks SET due_at = now() - interval '1 second'")
    async with harness.engine.begin() as connection:
        [carrier] = await claim_carriers(connection, 10, LEASE)
        held = await connection.execute(PREVIOUS_HOLD, {"callback_id": row.callback_id, "lease": row.tries + 1})
        assert held.rowcount == 0
        assert carrier.claim.tries == 2


async def test_the_previous_release_adds_bodies_without_knowing_the_new_columns(harness: GenerationHarness) -> None:
    await harness.execute(
        "INSERT INTO generation.provider_callbacks (callback_id, attempt_id, source, body, body_sha256)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), 'webhook', 'x', 'y')"
    )
    async with harness.engine.begin() as connection:
        assert len(await lock_due_callbacks(connection, 10)) == 1
