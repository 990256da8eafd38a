"""Processes: a service as one of its own, for tests that kill it, and whether one has ended."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import psutil
from pydantic import SecretStr

from messaging.failpoints import VARIABLE
from service_runtime.settings import ServiceSettings
from tests.support.fork_server import ForkedProcess, start_forked


@asynccontextmanager
async def service_process(settings: ServiceSettings, failpoint: str | None = None) -> AsyncIterator[ForkedProcess]:
    """Run ``<service>.main serve`` for as long as the block runs; it is killed when it passes ``failpoint``."""
    started = await start_forked(f"{settings.service}.main", "serve", environment=_environment(settings, failpoint))
    try:
        yield started
    finally:
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
