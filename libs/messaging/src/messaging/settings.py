"""How patient the consumers of a service are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLimits:
    """Bounds of a service's durable consumers; the defaults are those of production.

    A message whose handler fails is dead-lettered at failure number ``max_deliveries``. ``batch_size``
    bounds the messages of one transaction.
    """

    max_deliveries: int = 5
    batch_size: int = 100
