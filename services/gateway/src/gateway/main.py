"""The only wiring of the gateway: ``python -m gateway.main serve|migrate``."""

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import FastAPI

from catalogue import load_catalogue
from catalogue.credit_packs import load_credit_packs
from gateway.consumers import subscriptions
from gateway.dependencies import Parts
from gateway.http import build_app
from gateway.live_news import LiveNews
from gateway.settings import Settings
from gateway.tokens import Tokens
from messaging.runtime import Messaging
from service_runtime.database import create_engine
from service_runtime.lifecycle import Component, HttpServer, run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.migrations import migrate
from service_runtime.presigned_urls import PresignedUrls
from service_runtime.settings import settings_from_environment


@dataclass(frozen=True)
class Gateway:
    """A gateway, wired and not yet running."""

    app: FastAPI
    components: Sequence[Component]
    readiness: Mapping[str, Callable[[], Awaitable[None]]]
    parts: Parts

    def drain(self) -> None:
        """End the event streams, so that the listener can close."""
        self.parts.news.close()

    async def stop(self) -> None:
        """Let every connection go."""
        await self.parts.tokens.close()
        await self.parts.engine.dispose()


def build(settings: Settings) -> Gateway:
    """Put a gateway together; nothing is connected to yet."""
    engine = create_engine(settings)
    news = LiveNews(settings.event_streams_per_user)
    messaging = Messaging(
        service="gateway",
        engine=engine,
        settings=settings,
        subscriptions=subscriptions(news.projected),
    )
    news.listen_on(messaging.broker)
    parts = Parts(
        settings=settings,
        engine=engine,
        transactions=messaging.transactions,
        catalogue=load_catalogue(),
        packs={pack.id: pack for pack in load_credit_packs()},
        tokens=Tokens(settings),
        news=news,
        urls=PresignedUrls(
            settings.s3_public_endpoint_url or settings.s3_endpoint_url,
            settings.s3_region,
            settings.s3_access_key_id.get_secret_value(),
            settings.s3_secret_access_key.get_secret_value(),
        ),
    )
    readiness = {**messaging.readiness(), "live news": news.ready}
    return Gateway(build_app(parts), [*messaging.components(), news], readiness, parts)


async def serve(settings: Settings) -> None:
    """Run the service until it is told to stop."""
    gateway = build(settings)
    await run_service(
        "gateway",
        settings,
        components=gateway.components,
        http=[HttpServer(gateway.app, settings.http_host, settings.http_port)],
        readiness=gateway.readiness,
        on_drain=gateway.drain,
        on_stop=gateway.stop,
    )


def main() -> None:
    """Entry point of every command."""
    parser = argparse.ArgumentParser(prog="python -m gateway.main", description="The only public API.")
    parser.add_argument("command", choices=["serve", "migrate"])
    if parser.parse_args().command == "migrate":
        migrate("gateway")
        return
    settings = settings_from_environment(Settings)
    configure_logging("gateway", settings)
    run_process(serve(settings))


if __name__ == "__main__":
    main()
