"""What an operator's command cannot do."""


class UnknownIdentity(Exception):
    """No service knows this id, and no message and no finding mentions it."""


class UnusableIdentity(Exception):
    """This is too long for an id, empty, or has characters that no id has."""


class NoDatabase(Exception):
    """Neither the environment nor the command line names a database."""


class NoHead(Exception):
    """There is no published head of the ledger to prove anything against."""


class LibraryUnavailable(Exception):
    """The object store does not answer, or refuses the token, or has no such bucket: nothing is said of a file."""
