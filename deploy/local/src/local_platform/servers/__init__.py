"""Real servers from wheels: PostgreSQL, NATS with JetStream and S3, each a child process that dies with this one."""

from local_platform.servers.nats import NatsServer
from local_platform.servers.object_store import S3Server
from local_platform.servers.postgres import PostgresServer
from local_platform.servers.processes import ServerFailedError

__all__ = ["NatsServer", "PostgresServer", "S3Server", "ServerFailedError"]
