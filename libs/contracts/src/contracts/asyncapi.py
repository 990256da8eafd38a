"""The AsyncAPI 3.0 document of every message, generated: ``python -m contracts.asyncapi docs/asyncapi.json``."""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from contracts import headers
from contracts.message import SERVICES, Message
from contracts.registry import MESSAGES, stream_of
from contracts.streams import BY_NAME

ASYNCAPI_VERSION = "3.0.0"

_HEADERS: dict[str, Any] = {
    "type": "object",
    "required": [headers.MESSAGE_ID, headers.CORRELATION_ID, headers.OCCURRED_AT, headers.PRODUCER],
    "properties": {
        headers.MESSAGE_ID: {"type": "string", "format": "uuid"},
        headers.CORRELATION_ID: {"type": "string", "format": "uuid"},
        headers.CAUSATION_ID: {"type": "string", "format": "uuid"},
        headers.OCCURRED_AT: {"type": "string", "format": "date-time"},
        headers.PRODUCER: {"type": "string", "enum": list(SERVICES)},
        headers.TRACEPARENT: {"type": "string"},
    },
}


def document(examples: Path) -> dict[str, Any]:
    """Describe every channel, message and operation; ``examples`` is the directory with one file per subject."""
    _, schemas = msgspec.json.schema_components(MESSAGES, ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        if "description" in schema:
            # Python 3.13 takes the indentation off docstrings, earlier ones leave it: the document is the same for all.
            schema["description"] = inspect.cleandoc(schema["description"])
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Reelhouse messages",
            "version": "1",
            "description": "Every message between the services. Generated from libs/contracts by `make docs`.",
        },
        "defaultContentType": "application/json",
        "channels": {message.subject: _channel(message) for message in MESSAGES},
        "operations": _operations(),
        "components": {
            "schemas": schemas | {"MessageHeaders": _HEADERS},
            "messages": {message.__name__: _message(message, examples) for message in MESSAGES},
        },
    }


def _channel(message: type[Message]) -> dict[str, Any]:
    stream = BY_NAME[stream_of(message.subject)]
    return {
        "address": message.subject,
        "description": f"Stored in stream {stream.name} for {stream.max_age_seconds // 86400} days.",
        "messages": {message.__name__: {"$ref": f"#/components/messages/{message.__name__}"}},
    }


def _message(message: type[Message], examples: Path) -> dict[str, Any]:
    return {
        "name": message.__name__,
        "summary": (message.__doc__ or "").strip().splitlines()[0],
        "headers": {"$ref": "#/components/schemas/MessageHeaders"},
        "payload": {"$ref": f"#/components/schemas/{message.__name__}"},
        "examples": [{"payload": json.loads((examples / f"{message.subject}.json").read_bytes())}],
    }


def _operations() -> dict[str, Any]:
    operations: dict[str, Any] = {}
    for message in MESSAGES:
        channel = {"$ref": f"#/channels/{message.subject}"}
        for service in message.producers:
            operations[f"{service}-sends-{message.__name__}"] = {"action": "send", "channel": channel}
        for service in message.consumers:
            operations[f"{service}-receives-{message.__name__}"] = {"action": "receive", "channel": channel}
    return operations


def render(examples: Path) -> str:
    """The document as it is committed: indented JSON that ends in a newline."""
    return json.dumps(document(examples), indent=2) + "\n"


if __name__ == "__main__":
    source = Path(__file__).parents[2] / "examples"
    Path(sys.argv[1]).write_text(render(source), encoding="utf-8")
