"""The running service while RunPod cannot be reached at all: orders wait, and users keep control of them."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from contracts.generation import GenerationCancelled, GenerationFailed
from local_platform.servers import S3Server
from local_platform.servers.ports import free_port
from tests.generation.harness import order
from tests.generation.service import BrokerOf, peers, running, service_settings
from tests.support.databases import Database
from tests.support.waiting import eventually


async def test_orders_wait_behind_the_breaker_and_can_be_cancelled(
    make_database: Callable[..., Awaitable[Database]], broker_settings: BrokerOf, s3_server: S3Server
) -> None:
    database = await make_database("generation")
    nowhere = f"http://127.0.0.1:{free_port()}"
    settings = service_settings(database, broker_settings("generation"), s3_server, nowhere, "a key for tests")
    engine = database.engine("generation")

    async def paused() -> bool:
        async with engine.connect() as connection:
            statement = text("SELECT held_until IS NOT NULL FROM generation.endpoints WHERE endpoint = 'video'")
            return bool((await connection.execute(statement)).scalar())

    async with peers(database, broker_settings, s3_server) as around, running(settings):
        wanted = [order() for _ in range(8)]
        doomed = order(expires_at=datetime.now(UTC) + timedelta(seconds=4))
        await around.fund(*wanted, doomed)
        await eventually(paused, what="the breaker opened")
        assert await around.status(wanted[0]) in ("queued", "dispatching")
        await around.cancel(wanted[0])
        await around.until(wanted[0], GenerationCancelled)
        failure = await around.until(doomed, GenerationFailed)
        assert failure.code == "deadline_exceeded"
        assert await around.status(wanted[1]) in ("queued", "dispatching")
