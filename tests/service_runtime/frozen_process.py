"""A process that freezes inside a transaction, in the middle of a statement, for the test of what that holds up.

``python -m tests.service_runtime.frozen_process DSN STATEMENT_TIMEOUT_MS``. It locks ``LOCK``, and has the server parse
a statement. Then it stops itself, before it sends the values and the Sync message. Continued, it prints the error that
it meets, and works on.
"""

import asyncio
import os
import signal
import sys
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service_runtime.database import engine_for

NAME: Final = "frozen-in-a-statement"
LOCK: Final = text("SELECT pg_advisory_xact_lock(69)")


async def main(dsn: str, statement_timeout_ms: int) -> None:
    """Freeze once."""
    engine = engine_for(dsn, application_name=NAME, statement_timeout_ms=statement_timeout_ms)
    try:
        async with engine.begin() as connection:
            await connection.execute(LOCK)
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            await driver.prepare("SELECT CAST($1 AS int)")
            os.kill(os.getpid(), signal.SIGSTOP)
            await connection.execute(text("SELECT 1"))
    except DBAPIError as error:
        sys.stdout.write(f"{getattr(error.orig, 'sqlstate', None)}\n")
    async with engine.begin() as connection:
        await connection.execute(LOCK)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
