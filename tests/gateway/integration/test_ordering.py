"""Orders: verdicts, prices, refusals, and what a repeated key does."""

import pytest

from tests.gateway.house import CLIP, House
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)

PRICE_OF_PICTURE = "flux-schnell"


async def test_an_order_is_reserved_refused_or_accepted_for_later(house: House) -> None:
    gateway = await house.gateway(verdict_wait_seconds=0.3)
    user = house.user(gateway)
    early = await user.order(CLIP, "k-early")
    assert (early.status_code, early.json()["status"]) == (202, "requested")
    assert early.headers["Location"] == f"/v1/generations/{early.json()['id']}"
    await house.billing()
    refused = await eventually(lambda: _refused(user, early.json()["id"]), what="billing's verdict on the early order")
    assert refused["failure"]["code"] == "insufficient_credits"
    again = await user.order(CLIP, "k-early")
    assert again.status_code == 402, "the key keeps its first result"


async def _refused(user, generation_id):
    shown = (await user.get(f"/v1/generations/{generation_id}")).json()
    return shown if shown["status"] == "refused" else None
