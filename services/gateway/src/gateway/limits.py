"""What a user may do in a while, counted in PostgreSQL: so for all replicas together."""

from math import ceil

from gateway import repository
from gateway.dependencies import Dependencies
from gateway.domain import User
from gateway.errors import RateLimited
from messaging.database import single_statements


async def check_write(dependencies: Dependencies, user: User) -> None:
    """Take one of the writes that a user has each minute; a refused one counts, too. Raises ``RateLimited``."""
    per_minute = dependencies.settings.writes_per_minute
    async with single_statements(dependencies.engine) as connection:
        taken = await repository.take_write(connection, user.user_id, per_minute)
    if not taken:
        raise RateLimited(f"at most {per_minute} a minute", headers={"Retry-After": str(ceil(60 / per_minute))})
