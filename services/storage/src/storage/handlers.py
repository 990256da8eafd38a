"""What storage does: write down what is asked, and record what was found."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from contracts.generation import OutputReady, OutputSought
from contracts.message import Message
from contracts.storage import AssetStored, VerifyInputs
from messaging.received import Received
from messaging.transaction import Transaction
from storage import repository

Asked = TypeVar("Asked", OutputReady, OutputSought, VerifyInputs)


def ask(wake: Callable[[], None]) -> Any:
    """Build the handler of everything that storage is asked: the files are looked at after the commit."""

    async def handle(tx: Transaction, messages: Sequence[Received[Asked]]) -> None:
        rows = [
            {
                "message_id": message.message_id,
                "subject": message.subject,
                "generation_id": message.payload.generation_id,
                "user_id": message.payload.user_id,
                "payload": msgspec.json.encode(message.payload),
                "traceparent": message.traceparent,
            }
            for message in messages
        ]
        await repository.add_verifications(tx.connection, rows)
        tx.after_commit(wake)

    return handle


async def record_asset(tx: Transaction, claim: sa.Row[Any], asset: AssetStored, asked: Received[Any]) -> None:
    """A verified file is in the library: record it and say so. An asset that stood before is announced again."""
    if await repository.answer(tx.connection, claim, AssetStored.subject):
        standing = await repository.add_asset(tx.connection, asset)
        tx.publish(standing, cause=asked)


async def record_answer(tx: Transaction, claim: sa.Row[Any], answer: Message, asked: Received[Any]) -> None:
    """Any other answer: rejected, missing, inputs verified or rejected."""
    if await repository.answer(tx.connection, claim, answer.subject):
        tx.publish(answer, cause=asked)
