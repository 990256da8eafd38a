"""A request is claimed by the transaction that records it, where a place is free for it."""

from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from contracts.storage import AssetStored
from messaging.ids import new_id
from messaging.leased_worker import LeasedWorker
from storage.due_work import OUTPUT_SUBJECTS
from storage.handlers import VerificationHandler
from storage.intake import Work
from storage.worker import Verifications
from tests.storage.integration.conftest import StorageHarness, output_ready
from tests.support.media import clip

PLACES = 2


@dataclass
class IntakeHarness:
    """Storage whose requests go to a worker with two places, which looks for due rows only when it is told to."""

    storage: StorageHarness
    worker: LeasedWorker[Work]

    async def leased(self) -> list[bool]:
        """Of the rows that wait for an answer, by age, whether a worker has them."""
        query = "SELECT leased_until > now() FROM storage.verifications WHERE answered_at IS NULL ORDER BY message_id"
        async with self.storage.database.engine("storage").connect() as connection:
            return [bool(row[0]) for row in await connection.exec_driver_sql(query)]

    async def outputs(self) -> list[AssetStored]:
        return [one for one in await self.storage.published() if isinstance(one, AssetStored)]

    async def migrate(self, statement: str) -> None:
        """Run a statement with the rights of a migration."""
        async with self.storage.database.engine("storage_migrator").begin() as connection:
            await connection.exec_driver_sql(statement)

    async def request(self, generation_id: UUID | None = None, message_id: UUID | None = None) -> UUID:
        generation_id, reported = self.storage.upload_output(clip(), generation_id)
        await self.storage.receive(output_ready(generation_id, reported), message_id)
        return generation_id


@pytest.fixture
async def harness(storage: StorageHarness) -> IntakeHarness:
    handler = VerificationHandler(storage.transactions, storage.verifier)
    verifications = Verifications(storage.transactions, handler, OUTPUT_SUBJECTS)
    storage.worker = verifications.worker("outputs", PLACES, 3600.0, storage.intake)
    await storage.worker.fill()
    return IntakeHarness(storage, storage.worker)


async def test_a_request_is_begun_by_the_commit_that_records_it(harness: IntakeHarness) -> None:
    await harness.request()
    assert await harness.leased() == [True]
    await harness.worker.idle()
    assert await harness.leased() == []
    assert len(await harness.outputs()) == 1
    assert not harness.storage.intake.wake_up.is_set()


async def test_requests_beyond_the_free_places_are_due_and_wake_the_worker(harness: IntakeHarness) -> None:
    for _ in range(PLACES + 1):
        await harness.request()
    assert await harness.leased() == [True, True, False]
    assert harness.storage.intake.wake_up.is_set()
    await harness.worker.idle()
    # Others wait: what comes now comes after them, though places are free.
    await harness.request()
    assert await harness.leased() == [False, False]
    harness.storage.intake.wake_up.clear()
    await harness.storage.process_all()
    assert len(await harness.outputs()) == PLACES + 2


async def test_a_request_that_is_not_recorded_takes_no_place(harness: IntakeHarness) -> None:
    await harness.migrate("ALTER TABLE storage.verifications ALTER COLUMN asked_at DROP DEFAULT")
    for _ in range(PLACES + 1):
        with pytest.raises(Exception, match="asked_at"):
            await harness.request()
    await harness.migrate("ALTER TABLE storage.verifications ALTER COLUMN asked_at SET DEFAULT now()")
    await harness.request()
    assert await harness.leased() == [True]


async def test_a_repeated_message_and_a_stored_output_take_no_place(harness: IntakeHarness) -> None:
    message_id = new_id()
    generation_id = await harness.request(uuid4(), message_id)
    await harness.worker.idle()
    for _ in range(PLACES + 1):
        await harness.request(generation_id, message_id)
    assert await harness.leased() == []
    harness.storage.intake.wake_up.clear()
    await harness.storage.process_all()
    await harness.request(generation_id)
    assert await harness.leased() == [False]
    assert harness.storage.intake.wake_up.is_set()
    harness.storage.intake.wake_up.clear()
    await harness.storage.process_all()
    assert len(await harness.outputs()) == 2
