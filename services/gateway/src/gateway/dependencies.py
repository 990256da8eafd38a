"""What the handlers of the public API work with. ``main`` makes it once."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from catalogue import Catalogue
from catalogue.credit_packs import CreditPack
from gateway.admission import Admission
from gateway.file_urls import FileUrls
from gateway.live_events import LiveEvents
from gateway.settings import Settings
from gateway.signups import Signups
from gateway.tokens import Tokens
from messaging.broker import Broker
from messaging.transaction import Transactions
from service_runtime.database_watch import DatabaseClock


@dataclass(frozen=True)
class Dependencies:
    """Everything that a request may need."""

    settings: Settings
    engine: AsyncEngine
    transactions: Transactions
    catalogue: Catalogue
    packs: Mapping[str, CreditPack]
    tokens: Tokens
    signups: Signups
    clock: DatabaseClock
    admission: Admission
    live_events: LiveEvents
    broker: Broker
    file_urls: FileUrls
