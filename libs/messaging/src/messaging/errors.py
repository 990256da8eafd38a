"""What can go wrong between a service, its database and the broker."""

from typing import Final

from service_runtime.loops import ServerAwayError


class DatabaseUnavailableError(ServerAwayError):
    """The database could not be reached: the work was not done and is to be tried again later."""


class MessageTooLargeError(Exception):
    """A message is larger than its stream accepts. A bug of the producer: it is refused before anything commits."""

    def __init__(self, subject: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{subject}: {size_bytes} bytes, the stream takes {limit_bytes}")


class ForeignSubjectError(Exception):
    """A service tried to publish a message that the contracts do not let it produce."""

    def __init__(self, service: str, subject: str) -> None:
        super().__init__(f"{service} does not produce {subject}")


PROVISION_COMMAND: Final = "python -m messaging.provisioning"
"""What makes the streams and consumers of a release."""


class ConfigurationMismatchError(Exception):
    """A stream or consumer at the broker is kept in a way that would lose messages of this release."""

    def __init__(self, what: str, field: str, expected: object, found: object) -> None:
        super().__init__(
            f"{what}: {field} is {found!r} at the broker, but this release expects {expected!r}."
            f" Run `{PROVISION_COMMAND}` of this release: it mends this, or says what stands against it."
        )
        self.field = field
        self.expected = expected
        self.found = found


class FeedLostError(Exception):
    """The flow of messages from a consumer stopped: its subscription must be built again."""


class BrokerUnavailableError(Exception):
    """There is no connection to the broker at this moment."""


class DatabaseWentBackError(Exception):
    """The broker has what the database does not know: a backup was restored, and the streams are newer."""


class NotProvisionedError(BrokerUnavailableError):
    """A stream or consumer that this release needs is not there yet, or not yet wide enough."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; `{PROVISION_COMMAND}` of this release makes it")


class QueryUnansweredError(Exception):
    """A service did not answer a question in time. The same question may be asked again."""

    def __init__(self, responder: str) -> None:
        super().__init__(f"{responder} did not answer in time")
