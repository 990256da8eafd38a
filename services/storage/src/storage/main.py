"""The only wiring of storage: ``python -m storage.main serve|migrate|archive``."""

import argparse
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from messaging.command_line import run_command
from messaging.runtime import Messaging
from service_runtime.command_line import add_service_parsers, run_migrate
from service_runtime.database import create_engine
from service_runtime.database_watch import DatabaseWatch
from service_runtime.health import ReadinessCheck
from service_runtime.lifecycle import Component, run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import Every
from service_runtime.settings import settings_from_environment
from storage import commands, deletions, previews
from storage.consumers import subscriptions
from storage.decoders import Decoders
from storage.due_work import INPUT_SUBJECTS, OUTPUT_SUBJECTS, DueWork, WakeUps
from storage.handlers import VerificationHandler
from storage.intake import Intake
from storage.metrics import certificate_expires_at
from storage.object_store import ObjectStore
from storage.settings import Settings
from storage.signing import signer_of
from storage.verification import Verifier, check_signer
from storage.worker import Verifications, measure
from storage.workspace import create_workspace

GAUGES_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Storage:
    """The service, wired and not yet running."""

    components: Sequence[Component]
    readiness: Mapping[str, ReadinessCheck]
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


def build(settings: Settings) -> Storage:
    """Put the service together. It connects to nothing yet."""
    engine = create_engine(settings)
    database = DatabaseWatch(settings, engine)
    clock = database.clock
    store = ObjectStore(settings, clock.now)
    workspace = create_workspace()
    wake_ups = WakeUps()
    outputs, inputs = Intake(wake_ups.outputs), Intake(wake_ups.inputs)
    messaging = Messaging(
        service="storage",
        engine=engine,
        settings=settings,
        subscriptions=subscriptions(outputs, inputs, wake_ups.deletions.set),
    )
    # Uploads have their own slots and decoders: users can make them slow, and paid outputs must not wait for them.
    signer = signer_of(settings, clock.now)
    output_decoders = Decoders(settings.decoder_processes, signer=signer)
    # No process until there is a file: the first upload waits half a second for it.
    input_decoders = Decoders(settings.decoder_processes)
    # One file at a time.
    preview_decoders = Decoders(1, signer=signer, background=True)
    makes_previews = settings.previews == "on"
    poll = settings.poll_seconds

    def worker(name: str, decoders: Decoders, subjects: Collection[str], intake: Intake) -> Component:
        verifier = Verifier(store, decoders, workspace, settings)
        wake_previews = wake_ups.previews.set if makes_previews else None
        handler = VerificationHandler(messaging.transactions, verifier, wake_ups.deletions.set, wake_previews)
        verifications = Verifications(messaging.transactions, handler, subjects)
        return verifications.worker(name, settings.concurrency, poll, intake)

    async def start() -> None:
        await store.open()
        await output_decoders.start()
        if signer is not None:
            await check_signer(output_decoders, workspace)
            certificate_expires_at.set(signer.expires_at.timestamp())

    async def stop() -> None:
        await output_decoders.stop()
        await input_decoders.stop()
        await preview_decoders.stop()
        shutil.rmtree(workspace, ignore_errors=True)
        await store.close()
        await engine.dispose()

    # What was requested before previews were turned off is made all the same.
    previewer = previews.Previews(
        *(messaging.transactions, store, preview_decoders, workspace, settings.s3_library_bucket),
        wake_ups.deletions.set,
        clock.now,
    )
    return Storage(
        components=[
            database,
            *messaging.components(),
            worker("outputs", output_decoders, OUTPUT_SUBJECTS, outputs),
            worker("inputs", input_decoders, INPUT_SUBJECTS, inputs),
            deletions.Deletions(messaging.transactions, store, clock.now).worker(poll, wake_ups.deletions),
            previewer.worker(poll, wake_ups.previews),
            Every("due-work", poll, DueWork(messaging.transactions, wake_ups).wake_workers),
            Every("gauges", GAUGES_SECONDS, partial(measure, messaging.transactions)),
            Every("deletion gauges", GAUGES_SECONDS, partial(deletions.measure, messaging.transactions)),
            Every("preview gauges", GAUGES_SECONDS, partial(previews.measure, messaging.transactions)),
        ],
        readiness={**messaging.readiness(), "database": database.ready, "object_store": store.check},
        start=start,
        stop=stop,
    )


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    storage = build(settings)
    await run_service(
        "storage",
        settings,
        schema="storage",
        components=storage.components,
        readiness=storage.readiness,
        on_start=storage.start,
        on_stop=storage.stop,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of every command."""
    parser = argparse.ArgumentParser(prog="python -m storage.main", description="The only writer of the library.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    add_service_parsers(subparsers, "storage")
    commands.add_parsers(subparsers)
    arguments = parser.parse_args(argv)
    if arguments.command == "migrate":
        run_migrate("storage", arguments)
        return
    if arguments.command == "archive":
        run_command(commands.run(arguments))
    settings = settings_from_environment(Settings)
    configure_logging("storage", settings)
    run_process(serve(settings))


if __name__ == "__main__":
    main()
