"""How a service reaches the broker and how patient its consumers are."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Values that each service fills from its own settings.

    ``replicas`` is the number of copies of each stream (1 on one machine, 3 in production). A message whose handler
    fails is dead-lettered at failure number ``max_deliveries``. ``ack_wait_seconds`` is how long the broker waits for
    a sign of life before it hands a message to somebody else. ``batch_size`` bounds messages per transaction.
    """

    url: str
    user: str
    password: str = field(repr=False)
    replicas: int = 1
    max_deliveries: int = 5
    ack_wait_seconds: float = 10.0
    batch_size: int = 100
