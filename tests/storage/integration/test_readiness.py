"""Storage is ready only if it can do its work, and says why it is not."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from local_platform.servers import NatsServer, S3Server
from local_platform.servers.ports import free_port
from storage.errors import StoreUnavailable
from storage.object_store import ObjectStore
from tests.storage.integration.conftest import StorageHarness, settings_for
from tests.storage.integration.lossy_proxy import LossyProxy
from tests.storage.integration.test_service import process
from tests.support.waiting import eventually


class Readiness:
    """The answers of ``/readyz`` of one process."""

    def __init__(self) -> None:
        self.port = free_port()

    async def _failing(self) -> dict[str, str]:
        async with httpx.AsyncClient(trust_env=False) as http:
            try:
                answer = await http.get(f"http://127.0.0.1:{self.port}/readyz")
            except httpx.TransportError as error:
                raise AssertionError("the process does not listen yet") from error
        body: dict[str, Any] = answer.json()
        assert (answer.status_code == 200) == (body["failing"] == {})
        return dict(body["failing"])

    async def reached(self) -> None:
        """Wait until the service is ready."""

        async def ready() -> bool:
            failing = await self._failing()
            assert failing == {}, failing
            return True

        await eventually(ready, timeout=30, what="readiness")

    async def lost(self, check: str, reason: str) -> None:
        """Wait until this check alone fails, for this reason; at first it may have found a connection that broke."""

        async def failed() -> bool:
            failing = await self._failing()
            assert list(failing) == [check], failing
            assert reason in failing[check], failing
            return True

        await eventually(failed, timeout=30, what=f"the failure of {check}")


async def test_the_service_is_not_ready_without_its_object_store(
    storage: StorageHarness, nats_server: NatsServer, s3_server: S3Server
) -> None:
    proxy, readiness = LossyProxy(s3_server.endpoint_url), Readiness()
    async with AsyncExitStack() as reachable:
        await reachable.enter_async_context(proxy.running())
        environment = {"STORAGE_S3_ENDPOINT_URL": proxy.url, "STORAGE_OPS_PORT": str(readiness.port)}
        async with process(storage, nats_server, **environment):
            await readiness.reached()
            await reachable.aclose()
            await readiness.lost("object_store", "bucket incoming: ClientConnectorError")


async def test_the_service_is_not_ready_if_its_database_takes_no_writes(
    storage: StorageHarness, nats_server: NatsServer
) -> None:
    superuser, name = storage.database.superuser_engine(), storage.database.name

    async def set_read_only(value: str) -> None:
        async with superuser.begin() as connection:
            await connection.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"))
            await connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = 'storage' AND datname = current_database()"
                )
            )

    readiness = Readiness()
    async with process(storage, nats_server, STORAGE_OPS_PORT=str(readiness.port)):
        await readiness.reached()
        await set_read_only("on")
        await readiness.lost("database", "takes no writes")
        await set_read_only("off")
        await readiness.reached()


async def test_a_check_of_the_object_store_names_the_bucket_that_fails(s3_server: S3Server) -> None:
    settings = settings_for(s3_server)
    access_key, secret_key = s3_server.credentials["admin"]
    admin = {"s3_access_key_id": SecretStr(access_key), "s3_secret_access_key": SecretStr(secret_key)}
    cases = (
        (settings.model_copy(update={"s3_uploads_bucket": "absent", **admin}), "absent: .*404 NoSuchBucket"),
        (settings.model_copy(update={"s3_library_bucket": "absent"}), "absent: .*403 AccessDenied"),
        (settings.model_copy(update={"s3_access_key_id": settings.s3_secret_access_key}), "incoming: .*403"),
        (settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:1"}), "incoming: "),
    )
    for changed, reason in cases:
        store = ObjectStore(changed)
        with pytest.raises(StoreUnavailable, match="not connected"):
            await store.check()
        await store.open()
        try:
            with pytest.raises(StoreUnavailable, match=reason):
                await asyncio.wait_for(store.check(), 30)
        finally:
            await store.close()


async def test_a_check_of_the_object_store_needs_no_object(storage: StorageHarness) -> None:
    await storage.store.check()
