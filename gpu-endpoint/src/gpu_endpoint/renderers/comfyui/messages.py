"""What ComfyUI says over its socket, as far as the driver listens."""

from typing import Any, Final

import msgspec

_PREVIEW_WITH_METADATA: Final = 4
_INTEGER_BYTES: Final = 4

HELLO: Final = b'{"type":"feature_flags","data":{"supports_preview_metadata":true}}'
"""Must be the first message of a socket, and makes previews name their prompt."""

ENDINGS: Final = frozenset({"execution_success", "execution_error", "execution_interrupted"})


class NodeState(msgspec.Struct, frozen=True):
    """How far a node is. Nodes that have not begun are not told of."""

    state: str
    value: float = 0.0
    max: float = 1.0
    display_node_id: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One text message. ``data`` is decoded when it is one to hear."""

    type: str
    data: msgspec.Raw = msgspec.Raw(b"{}")


class PromptMessage(msgspec.Struct, frozen=True):
    """What all messages about a prompt share, and what two kinds of them say."""

    prompt_id: str | None = None
    nodes: dict[str, NodeState] | list[str] = []


class Preview(msgspec.Struct, frozen=True):
    """A picture of what a prompt's node has so far."""

    prompt_id: str
    picture: bytes


class _PreviewMetadata(msgspec.Struct):
    prompt_id: str = ""


def read_message(text: str) -> tuple[str, PromptMessage] | None:
    """Kind and content of a message about a prompt; None for every other one."""
    message = msgspec.json.decode(text, type=Message)
    if message.type not in ENDINGS and message.type not in ("progress_state", "execution_cached", "executing"):
        return None
    return message.type, msgspec.json.decode(message.data, type=PromptMessage)


def read_preview(frame: bytes) -> Preview | None:
    """The preview in a binary frame; None for every other frame, and for one that does not name its prompt."""
    if len(frame) < 2 * _INTEGER_BYTES or _integer(frame, 0) != _PREVIEW_WITH_METADATA:
        return None
    picture_at = 2 * _INTEGER_BYTES + _integer(frame, _INTEGER_BYTES)
    metadata: Any = msgspec.json.decode(frame[2 * _INTEGER_BYTES : picture_at], type=_PreviewMetadata)
    return Preview(metadata.prompt_id, frame[picture_at:])


def _integer(frame: bytes, at: int) -> int:
    return int.from_bytes(frame[at : at + _INTEGER_BYTES], "big")
