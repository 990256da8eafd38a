"""The only wiring of storage: ``python -m storage.main serve|migrate``."""

import argparse
import asyncio
from typing import Final

from messaging.runtime import Messaging
from messaging.settings import BrokerSettings
from service_runtime.database import create_engine
from service_runtime.lifecycle import run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import every
from service_runtime.migrations import migrate
from storage.consumers import subscriptions
from storage.decoders import Decoders
from storage.object_store import ObjectStore
from storage.settings import Settings
from storage.verification import Verifier
from storage.worker import LEASE_BEAT_SECONDS, Worker

GAUGES_SECONDS: Final = 15.0


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    engine = create_engine(settings)
    store = ObjectStore(settings)
    decoders = Decoders(settings.decoder_processes)
    due = asyncio.Event()
    messaging = Messaging(
        service="storage",
        engine=engine,
        broker_settings=BrokerSettings(
            url=settings.nats_url,
            user=settings.nats_user,
            password=settings.nats_password.get_secret_value(),
            replicas=settings.stream_replicas,
        ),
        subscriptions=subscriptions(due.set),
    )
    verifier = Verifier(store, decoders, settings)
    worker = Worker(messaging.transactions, verifier, settings.concurrency, due)

    async def start() -> None:
        await store.open()
        await decoders.warm()

    async def stop() -> None:
        await worker.stop()
        await decoders.close()
        await store.close()
        await engine.dispose()

    await run_service(
        "storage",
        settings,
        components=[
            *messaging.components(),
            every("verification", settings.poll_seconds, worker.work, wake=due),
            every("leases", LEASE_BEAT_SECONDS, worker.keep_leases),
            every("gauges", GAUGES_SECONDS, worker.measure),
        ],
        readiness=messaging.readiness(),
        on_start=start,
        on_stop=stop,
    )


def main() -> None:
    """Entry point of every command."""
    parser = argparse.ArgumentParser(prog="python -m storage.main", description="The only writer of the library.")
    parser.add_argument("command", choices=["serve", "migrate"])
    if parser.parse_args().command == "migrate":
        migrate("storage")
        return
    settings = Settings()
    configure_logging("storage", settings)
    run_process(serve(settings))


if __name__ == "__main__":
    main()
