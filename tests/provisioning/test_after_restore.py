"""What an operator learns of a message that a restored database does not know."""

from unittest.mock import Mock

import pytest
from nats.aio.msg import Msg

from contracts.gateway import VariantsRequested
from provisioning.after_restore import read_message


@pytest.mark.parametrize(
    ("content", "user", "generations"),
    [
        (b'{"generation_id": "g", "user_id": "u"}', "u", ("g",)),
        (b'{"order": {"generation_id": "g", "user_id": "u"}}', "u", ("g",)),
        (b'{"user_id": "u", "orders": [{"generation_id": "g"}, {"generation_id": "h"}]}', "u", ("g", "h")),
        (b'{"payment": {"user_id": "u"}}', "u", ()),
        (b'{"orders": {"generation_id": 1}}', None, ()),
        (b"[]", None, ()),
        (b"not JSON", None, ()),
    ],
)
def test_a_lost_message_names_its_user_and_every_generation(
    content: bytes, user: str | None, generations: tuple[str, ...]
) -> None:
    reply = "$JS.ACK.GATEWAY.reader.1.42.1.1764265000000000000.0"
    message = Msg(_client=Mock(), subject=VariantsRequested.subject, reply=reply, data=content)
    lost = read_message("GATEWAY", message)
    assert (lost.user_id, lost.generation_ids, lost.sequence) == (user, generations, 42)
