"""Storage as a process of its own: real messages, real kills, nothing lost and nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa

from contracts import headers
from contracts.message import Message
from contracts.storage import AssetStored, InputsVerified, VerifyInputs
from contracts.streams import BY_NAME
from local_platform.servers import NatsServer
from messaging.broker import Broker
from messaging.failpoints import VARIABLE
from messaging.ids import new_id
from messaging.topology import assert_stream
from service_runtime.settings import ServiceSettings
from storage.workspace import claim_workspace
from tests.storage.integration.conftest import Desk, due_at_once, ready, sought
from tests.support.media import clip, endless_photograph, picture
from tests.support.waiting import eventually

Say = Callable[[Message], Any]
FAILPOINTS = ("storage.before_put", "storage.after_put", "storage.before_record", "storage.after_record")


@pytest.fixture
async def say(broker_settings: Callable[[str], ServiceSettings]) -> AsyncIterator[Say]:
    """Publish as generation does."""
    broker = Broker.of(broker_settings("generation"), name="generation")
    await broker.connect()
    await assert_stream(broker.jetstream, BY_NAME["GENERATION"], 1)

    async def publish(message: Any, message_id: UUID | None = None) -> None:
        values = {
            headers.MESSAGE_ID: str(message_id or new_id()),
            headers.CORRELATION_ID: str(message.generation_id),
            headers.OCCURRED_AT: datetime.now(UTC).isoformat(),
            headers.PRODUCER: "generation",
        }

        async def accepted() -> bool:
            # The stream of another service may not be there yet.
            try:
                await broker.jetstream.publish(message.subject, msgspec.json.encode(message), headers=values)
            except Exception as error:
                raise AssertionError(str(error)) from error
            return True

        await eventually(accepted, timeout=20, what="the publication")

    yield publish
    await broker.close()


@asynccontextmanager
async def process(
    desk: Desk, nats: NatsServer, failpoint: str = "", **more_environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Storage, the way an operator starts it; it must stop in order when it is told to."""
    access_key, secret_key = desk.s3.credentials["storage"]
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "storage.main", "serve"),
        env={
            "PATH": os.environ["PATH"],
            "STORAGE_DATABASE_URL": desk.database.dsn("storage"),
            "STORAGE_NATS_URL": nats.url,
            "STORAGE_NATS_USER": "storage",
            "STORAGE_NATS_PASSWORD": nats.users["storage"],
            "STORAGE_OPS_HOST": "127.0.0.1",
            "STORAGE_OPS_PORT": "0",
            "STORAGE_POLL_SECONDS": "0.2",
            "STORAGE_DECODER_PROCESSES": "1",
            "STORAGE_S3_ENDPOINT_URL": desk.s3.endpoint_url,
            "STORAGE_S3_REGION": desk.s3.region,
            "STORAGE_S3_ACCESS_KEY_ID": access_key,
            "STORAGE_S3_SECRET_ACCESS_KEY": secret_key,
            VARIABLE: failpoint,
            **more_environment,
        },
    )
    try:
        yield started
        if started.returncode is None:
            started.terminate()
            assert await asyncio.wait_for(started.wait(), 30) == 0
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def published(desk: Desk, count: int) -> list[Any]:
    """What was said, once ``count`` messages have reached the broker."""

    async def delivered() -> bool:
        async with desk.transactions.begin() as tx:
            query = "SELECT count(*) FROM storage.outbox_messages WHERE published_at IS NOT NULL"
            return bool(await tx.connection.scalar(sa.text(query)) == count)

    await eventually(delivered, timeout=30, what=f"{count} published messages")
    return await desk.said()


async def test_files_are_stored_and_announced_and_the_process_stops_in_order(
    desk: Desk, nats_server: NatsServer, say: Say
) -> None:
    async with process(desk, nats_server):
        questions = []
        for _ in range(5):
            generation_id, claim = desk.upload(clip())
            questions.append(ready(generation_id, claim))
        for question in (*questions, *questions):
            await say(question)
        # Asked twice, under two message ids: announced twice, stored once.
        said = await published(desk, 10)
    assert {type(answer) for answer in said} == {AssetStored}
    assert len({answer.asset_id for answer in said}) == 5
    assert len(await desk.assets()) == 5


async def test_several_replicas_share_the_work_and_answer_each_question_once(
    desk: Desk, nats_server: NatsServer, say: Say
) -> None:
    owner, questions = uuid4(), []
    for _ in range(12):
        upload_id = uuid4()
        desk.s3.client("gateway").put_object(Bucket="uploads", Key=f"{owner}/{upload_id}", Body=picture())
        questions.append(VerifyInputs(generation_id=uuid4(), user_id=owner, uploads={"image": upload_id}))
    async with process(desk, nats_server), process(desk, nats_server):
        for question in questions:
            await say(question)
        answers = await published(desk, len(questions))
    assert {type(answer) for answer in answers} == {InputsVerified}
    assert {answer.generation_id for answer in answers} == {question.generation_id for question in questions}


async def test_a_clip_does_not_wait_for_the_pictures_that_users_start_from(
    desk: Desk, nats_server: NatsServer, say: Say
) -> None:
    """One user may have hundreds of orders open, each with a picture that takes as long as it may, and pays nothing."""
    owner, upload_id = uuid4(), uuid4()
    hostile = endless_photograph(scans=20_000)
    desk.s3.client("gateway").put_object(Bucket="uploads", Key=f"{owner}/{upload_id}", Body=hostile)
    async with process(desk, nats_server, STORAGE_CONCURRENCY="2"):
        for _ in range(10):
            await say(VerifyInputs(generation_id=uuid4(), user_id=owner, uploads={"image": upload_id}))

        async def all_asked() -> bool:
            async with desk.transactions.begin() as tx:
                return bool(await tx.connection.scalar(sa.text("SELECT count(*) FROM storage.verifications")) == 10)

        await eventually(all_asked, timeout=20)
        generation_id, claim = desk.upload(clip())
        await say(ready(generation_id, claim))
        (stored,) = await published(desk, 1)
    assert isinstance(stored, AssetStored)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_a_death_at_any_point_ends_in_one_asset_and_one_announcement(
    desk: Desk, nats_server: NatsServer, say: Say, failpoint: str
) -> None:
    body = clip()
    generation_id, claim = desk.upload(body)
    async with process(desk, nats_server, failpoint) as doomed:
        await say(sought(generation_id, [claim]))
        assert await asyncio.wait_for(doomed.wait(), 30) == -signal.SIGKILL
    # Instead of waiting until the dead one's lease runs out.
    await due_at_once(desk)
    async with process(desk, nats_server):
        (stored,) = await published(desk, 1)
    assert isinstance(stored, AssetStored)
    assert desk.library(stored.object_key) == body
    assert len(await desk.assets()) == 1


async def test_the_files_of_a_service_that_was_killed_are_removed_by_the_next_and_those_of_a_living_one_are_not(
    desk: Desk, nats_server: NatsServer, say: Say, tmp_path: Path
) -> None:
    def files() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    generation_id, claim = desk.upload(clip())
    async with process(desk, nats_server, "storage.before_put", TMPDIR=str(tmp_path)) as doomed:
        await say(ready(generation_id, claim))
        assert await asyncio.wait_for(doomed.wait(), 30) == -signal.SIGKILL
    assert files()
    neighbours = claim_workspace(tmp_path) / "file"
    neighbours.touch()
    async with process(desk, nats_server, TMPDIR=str(tmp_path)):
        await due_at_once(desk)
        await published(desk, 1)
        await eventually(lambda: files() == [neighbours])
    assert os.listdir(tmp_path) == [neighbours.parent.name]


async def test_decoders_end_with_a_service_that_is_killed(desk: Desk, nats_server: NatsServer, say: Say) -> None:
    async with process(desk, nats_server) as service:
        # Its first answer shows that it is up.
        generation_id, claim = desk.upload(clip())
        await say(ready(generation_id, claim))
        await published(desk, 1)
        children = running_children(service.pid)
        assert children
        service.kill()
        await service.wait()
        await eventually(lambda: not any(is_running(child) for child in children), what="the end of the decoders")


def running_children(parent: int) -> list[int]:
    table = subprocess.run(("ps", "-A", "-o", "pid=,ppid="), capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in table.splitlines()]
    return [int(process_id) for process_id, parent_id in rows if int(parent_id) == parent]


def is_running(process_id: int) -> bool:
    state = subprocess.run(("ps", "-o", "stat=", "-p", str(process_id)), capture_output=True, text=True).stdout.strip()
    # A zombie has ended; whoever inherited it has not looked yet.
    return bool(state) and not state.startswith("Z")
