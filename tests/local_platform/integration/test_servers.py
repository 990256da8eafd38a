"""The embedded servers: they serve, keep their data over a kill, and separate the identities."""

import asyncio
from pathlib import Path

import asyncpg
import nats
import pytest
from botocore.exceptions import ClientError

from local_platform.servers import NatsServer, PostgresServer, S3Server
from tests.support.folders import removed_at_exit


async def test_postgres_keeps_committed_rows_over_a_kill() -> None:
    with removed_at_exit("reelhouse-test-") as directory:
        server = PostgresServer(directory)
        await server.start()
        try:
            connection = await asyncpg.connect(server.dsn())
            await connection.execute("CREATE TABLE kept (value int)")
            await connection.execute("INSERT INTO kept VALUES (7)")
            port = server.port
            server.kill()
            connection.terminate()
            await server.start()
            again = await asyncpg.connect(server.dsn())
            assert await again.fetchval("SELECT value FROM kept") == 7
            assert server.port == port
            await again.close()
        finally:
            await server.stop("immediate")


async def test_postgres_refuses_a_wrong_password(postgres_server: PostgresServer) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_server.dsn("postgres", "postgres", "wrong"))


async def test_jetstream_keeps_its_streams_over_a_restart_until_it_is_wiped(tmp_path: Path) -> None:
    nats_server = NatsServer(tmp_path, provisioned=False)
    await nats_server.start()

    async def streams() -> list[str | None]:
        connection = await nats.connect(nats_server.url, user="admin", password=nats_server.users["admin"])
        try:
            found = [info.config.name for info in await connection.jetstream().streams_info()]
            if not found:
                await connection.jetstream().add_stream(name="KEPT", subjects=["kept.>"])
            return found
        finally:
            await connection.close()

    assert await streams() == []
    await nats_server.stop()
    await nats_server.start()
    assert await streams() == ["KEPT"]
    nats_server.kill()
    nats_server.wipe_store()
    await nats_server.start()
    assert await streams() == []
    nats_server.kill()


async def test_a_service_cannot_publish_messages_of_another(nats_server: NatsServer) -> None:
    refusals: asyncio.Queue[str] = asyncio.Queue()

    async def on_error(error: Exception) -> None:
        refusals.put_nowait(str(error).lower())

    connection = await nats.connect(
        nats_server.url, user="storage", password=nats_server.users["storage"], error_cb=on_error
    )
    try:
        await connection.publish("billing.event.credits-captured.v1", b"{}")
        refusal = await asyncio.wait_for(refusals.get(), 5)
        assert "permissions violation" in refusal
        assert "billing.event.credits-captured.v1" in refusal
    finally:
        await connection.close()


FORBIDDEN = [
    ("generation", "get", "incoming"),
    ("generation", "put", "library"),
    ("generation", "put", "uploads"),
    ("storage", "put", "incoming"),
    ("storage", "put", "uploads"),
    ("gateway", "put", "library"),
    ("gateway", "get", "incoming"),
    ("gateway", "get", "uploads"),
]
ALLOWED = [
    ("generation", "put", "incoming"),
    ("generation", "get", "uploads"),
    ("storage", "get", "incoming"),
    ("storage", "get", "uploads"),
    ("storage", "put", "library"),
    ("storage", "get", "library"),
    ("gateway", "get", "library"),
    ("gateway", "put", "uploads"),
]


def _attempt(server: S3Server, identity: str, action: str, bucket: str) -> None:
    server.client("admin").put_object(Bucket=bucket, Key="object", Body=b"x")
    client = server.client(identity)
    if action == "get":
        client.get_object(Bucket=bucket, Key="object")["Body"].close()
    else:
        client.put_object(Bucket=bucket, Key=f"object-{identity}", Body=b"y")


@pytest.mark.parametrize(("identity", "action", "bucket"), ALLOWED)
def test_each_identity_can_do_its_work_in_the_buckets(
    s3_server: S3Server, identity: str, action: str, bucket: str
) -> None:
    _attempt(s3_server, identity, action, bucket)


@pytest.mark.parametrize(("identity", "action", "bucket"), FORBIDDEN)
def test_no_identity_has_rights_beyond_its_work(s3_server: S3Server, identity: str, action: str, bucket: str) -> None:
    with pytest.raises(ClientError) as refused:
        _attempt(s3_server, identity, action, bucket)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


async def test_objects_survive_a_kill(tmp_path: Path) -> None:
    server = S3Server(tmp_path)
    await server.start()
    try:
        server.client("admin").put_object(Bucket="library", Key="clip", Body=b"frames")
        server.kill()
        await server.start()
        body = server.client("gateway").get_object(Bucket="library", Key="clip")["Body"]
        assert body.read() == b"frames"
        body.close()
    finally:
        await server.stop()
