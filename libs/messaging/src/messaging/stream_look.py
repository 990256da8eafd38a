"""What a stream holds, in the broker's words: enough to tell whether anything was stored or lost since."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from nats.js.api import StreamInfo
from nats.js.errors import APIError, NotFoundError

from contracts.permissions import API_PREFIX
from messaging.broker import Broker

_ANSWER_SECONDS: Final = 5.0
_OF_READERS: Final = "consumer_count"


@dataclass(frozen=True, slots=True)
class StreamLook:
    """A stream at one moment of the connection ``epoch``.

    Two looks with equal ``contents`` saw the same messages: the numbers, the times to the nanosecond and the sizes of
    what is stored. The client library leaves out the times.
    """

    info: StreamInfo
    contents: Mapping[str, Any]
    epoch: int


async def look_at(broker: Broker, stream: str) -> StreamLook | None:
    """The stream as it is at the broker, or None."""
    epoch = broker.epoch
    answer = await broker.client.request(f"{API_PREFIX}.STREAM.INFO.{stream}", timeout=_ANSWER_SECONDS)
    described: dict[str, Any] = msgspec.json.decode(answer.data)
    if "error" in described:
        try:
            raise APIError.from_error(described["error"])
        except NotFoundError:
            broker.note_answer(stream)
            return None
    broker.note_answer(stream)
    state = {name: value for name, value in described["state"].items() if name != _OF_READERS}
    contents = {"created": described["created"], **state}
    return StreamLook(StreamInfo.from_response(described), contents, epoch)
