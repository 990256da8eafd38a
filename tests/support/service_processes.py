"""Processes: a service as one of its own, for tests that kill it, and whether one has ended."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import psutil
from pydantic import SecretStr

from messaging.failpoints import VARIABLE
from service_runtime.settings import ServiceSettings


@asynccontextmanager
async def service_process(
    settings: ServiceSettings, failpoint: str | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ``<service>.main serve`` for as long as the block runs; it is killed when it passes ``failpoint``."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"{settings.service}.main", "serve"),
        env=_environment(settings, failpoint),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.terminate()
        await started.wait()


def is_running(process_id: int) -> bool:
    """Whether a process has not ended. A zombie has: a container may have no init process that reaps it."""
    try:
        return bool(psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _environment(settings: ServiceSettings, failpoint: str | None) -> dict[str, str]:
    values = settings.model_dump(mode="python", exclude_none=True)
    plain = {f"{settings.service}_{name}".upper(): _as_variable(value) for name, value in values.items()}
    return {"PATH": os.environ["PATH"], **plain} | ({VARIABLE: failpoint} if failpoint else {})


def _as_variable(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict | list):
        return msgspec.json.encode(value, enc_hook=_as_variable).decode()
    return str(value)
