"""What a process that is frozen holds up: its host answers for it, so that its connections stand."""

import asyncio
import signal
import sys

import psutil
from sqlalchemy import text

from tests.service_runtime.frozen_process import LOCK, NAME
from tests.support import eventually
from tests.support.databases import MakeDatabase

STATEMENT_TIMEOUT_MS = 500
_SESSION = text("SELECT state, wait_event FROM pg_stat_activity WHERE application_name = :name")


async def test_the_locks_of_a_process_frozen_in_a_statement_end_in_time(make_database: MakeDatabase) -> None:
    database = await make_database()
    frozen = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.service_runtime.frozen_process"),
        *(database.dsn("billing"), str(STATEMENT_TIMEOUT_MS)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await eventually(lambda: psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED, timeout=30)
        async with database.superuser_engine().connect() as superuser:
            # It is neither idle, nor does a statement of it run.
            assert (await superuser.execute(_SESSION, {"name": NAME})).all() == [("active", "ClientRead")]
        async with database.engine("billing").begin() as connection:
            await connection.execute(LOCK)
        frozen.send_signal(signal.SIGCONT)
        # Its connection was lost, and it works on over another one.
        said, _ = await asyncio.wait_for(frozen.communicate(), 30)
        assert (said.decode(), frozen.returncode) == ("08003\n", 0)
    finally:
        if frozen.returncode is None:
            frozen.kill()
            await frozen.wait()
