"""What a user sees of credits that an operator has just granted."""

from uuid import UUID

import pytest

from billing.commands import VISIBILITY, grant
from billing.settings import CommandSettings
from contracts.billing import GrantCredits
from messaging.ids import new_id
from tests.gateway.harness import GatewayHarness


def granted(user_id: UUID) -> GrantCredits:
    return GrantCredits(grant_id=new_id(), user_id=user_id, amount_credits=70, reason="goodwill", actor="Ada")


def settings(harness: GatewayHarness, *, with_broker: bool = True) -> CommandSettings:
    return CommandSettings(
        database_url=harness.database.dsn("billing"),
        nats_url=harness.nats.url if with_broker else None,
        nats_password=harness.nats.users["billing"],
    )


async def test_the_first_balance_after_an_operators_grant_shows_it(
    harness: GatewayHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    replica = await harness.gateway()
    await harness.billing()
    user = harness.user(replica)
    assert await grant(settings(harness), granted(user.user_id), 30) == 0
    assert VISIBILITY["handled"] in capsys.readouterr().out
    assert (await user.get("/v1/balance")).json()["available_credits"] == 70


async def test_a_grant_that_may_not_be_visible_yet_says_so(
    harness: GatewayHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    await harness.billing()
    command = granted(new_id())
    assert await grant(settings(harness, with_broker=False), command, 30) == 0
    assert VISIBILITY["published"] in capsys.readouterr().out
    # No gateway runs: it cannot have it, and the broker knows that.
    assert await grant(settings(harness), command, 2) == 0
    printed = capsys.readouterr().out
    assert "made before" in printed
    assert VISIBILITY["handled"] not in printed
