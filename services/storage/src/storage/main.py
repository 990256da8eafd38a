"""The only wiring of storage: ``python -m storage.main serve|migrate``."""

import argparse
import asyncio
import shutil
from collections.abc import Collection
from functools import partial
from typing import Final

from messaging.runtime import Messaging
from service_runtime.database import create_engine
from service_runtime.lifecycle import run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import every
from service_runtime.migrations import migrate
from service_runtime.settings import settings_from_environment
from storage.consumers import subscriptions
from storage.decoders import Decoders
from storage.object_store import ObjectStore
from storage.settings import Settings
from storage.verification import Verifier
from storage.worker import INPUT_QUESTIONS, LEASE_BEAT_SECONDS, OUTPUT_QUESTIONS, Worker, measure
from storage.workspace import claim_workspace

GAUGES_SECONDS: Final = 15.0


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    engine = create_engine(settings)
    store = ObjectStore(settings)
    workspace = claim_workspace()
    # Whoever uploads can make a look take long: that must not hold up what was paid for.
    output_decoders, input_decoders = (Decoders(settings.decoder_processes) for _ in range(2))
    outputs_due, inputs_due = asyncio.Event(), asyncio.Event()
    messaging = Messaging(
        service="storage",
        engine=engine,
        settings=settings,
        subscriptions=subscriptions(outputs_due.set, inputs_due.set),
    )

    def worker(decoders: Decoders, subjects: Collection[str], due: asyncio.Event) -> Worker:
        verifier = Verifier(store, decoders, workspace, settings)
        return Worker(messaging.transactions, verifier, subjects, settings.concurrency, due)

    outputs = worker(output_decoders, OUTPUT_QUESTIONS, outputs_due)
    inputs = worker(input_decoders, INPUT_QUESTIONS, inputs_due)

    async def start() -> None:
        await store.open()
        await output_decoders.warm()
        await input_decoders.warm()

    async def stop() -> None:
        await outputs.stop()
        await inputs.stop()
        await output_decoders.close()
        await input_decoders.close()
        shutil.rmtree(workspace, ignore_errors=True)
        await store.close()
        await engine.dispose()

    await run_service(
        "storage",
        settings,
        components=[
            *messaging.components(),
            every("outputs", settings.poll_seconds, outputs.work, wake=outputs_due),
            every("output-leases", LEASE_BEAT_SECONDS, outputs.keep_leases),
            every("inputs", settings.poll_seconds, inputs.work, wake=inputs_due),
            every("input-leases", LEASE_BEAT_SECONDS, inputs.keep_leases),
            every("gauges", GAUGES_SECONDS, partial(measure, messaging.transactions)),
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
    settings = settings_from_environment(Settings)
    configure_logging("storage", settings)
    run_process(serve(settings))


if __name__ == "__main__":
    main()
