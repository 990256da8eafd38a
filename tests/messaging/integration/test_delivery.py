"""The straight line: committed, published, received, once."""

from contracts.billing import CreditsRefused
from messaging.consumers import Subscription
from tests.messaging.integration.conftest import Platform
from tests.messaging.integration.effects import effects, publish_refused, record, scalar
from tests.support import eventually


async def test_what_commits_is_published_and_takes_effect_once(platform: Platform) -> None:
    billing = await platform.start("billing")
    await platform.start("gateway", [Subscription(CreditsRefused, record)])
    engine = platform.engine("gateway")

    ids = await publish_refused(billing.transactions, 250)

    async def all_arrived() -> bool:
        return len(await effects(engine)) == len(ids)

    await eventually(all_arrived)
    assert sorted(await effects(engine)) == sorted(ids)
    unpublished = "SELECT count(*) FROM billing.outbox_messages WHERE published_at IS NULL"

    async def outbox_is_empty() -> bool:
        return await scalar(platform.engine("billing"), unpublished) == 0

    await eventually(outbox_is_empty)
