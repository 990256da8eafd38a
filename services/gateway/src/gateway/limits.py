"""What a user may do in a while, counted in PostgreSQL: so for all replicas together."""

from math import ceil
from typing import Final

from contracts.values import Lane
from gateway import repository
from gateway.dependencies import Dependencies
from gateway.domain import User
from gateway.errors import RateLimited
from gateway.rate_limit_headers import Limit
from gateway.settings import Settings
from messaging.database import single_statements

DAY_SECONDS: Final = 86_400


def running_cancels(settings: Settings, lane: Lane) -> Limit:
    """How much running work a user of this plan may cancel."""
    return Limit("running-cancels", settings.running_cancels_per_day[lane], DAY_SECONDS)


async def check_write(dependencies: Dependencies, user: User) -> None:
    """Take one of the writes that a user has each minute; a refused one counts, too. Raises ``RateLimited``."""
    per_minute = dependencies.settings.writes_per_minute
    async with single_statements(dependencies.engine) as connection:
        taken = await repository.take_write(connection, user.user_id, per_minute)
    if not taken:
        raise RateLimited(f"at most {per_minute} a minute", headers={"Retry-After": str(ceil(60 / per_minute))})
