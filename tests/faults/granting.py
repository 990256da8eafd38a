"""Credits for the users of a campaign or a benchmark, as an operator grants them."""

import contextlib
import io
from collections.abc import Iterable
from uuid import UUID

from billing.commands import grant
from billing.settings import CommandSettings
from contracts.billing import GrantCredits
from local_platform.description import PlatformDescription
from messaging.ids import new_id


async def grant_to_each(
    platform: PlatformDescription, users: Iterable[UUID], amount_credits: int, actor: str = "faults"
) -> None:
    """Grant every user so many credits. Raises RuntimeError if one of them gets none."""
    settings = CommandSettings(database_url=platform.postgres.dsns["billing"])
    for user_id in users:
        command = GrantCredits(
            grant_id=new_id(), user_id=user_id, amount_credits=amount_credits, reason="goodwill", actor=actor
        )
        # What the command says is for an operator, not for a table of figures.
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exit_code = await grant(settings, command)
        if exit_code != 0:
            raise RuntimeError(f"no credits were granted: {said.getvalue()}")
