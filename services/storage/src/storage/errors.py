"""What can go wrong: with a file (``Rejected``), with the object store, or with a decoder process."""

from contracts.storage import RejectionCode


class Rejected(Exception):
    """The file is not what was asked for. ``code`` says why. Another try changes nothing."""

    def __init__(self, code: RejectionCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code: RejectionCode = code
        self.detail = detail


class StoreUnavailable(Exception):
    """The object store gave no usable answer. The same work is done again later."""


class DecoderFailed(Exception):
    """The decoder died, or took too long, on a file. Repetition shows whether the file is the cause.

    ``file`` is the name of the file in the verification request, where it is known.
    """

    def __init__(self, reason: str, file: str | None = None) -> None:
        super().__init__(reason)
        self.file = file


class DecoderNotStarted(Exception):
    """A decoder process ended before it got a file. The cause is the installation or the machine, not a file."""


class Unmarkable(Exception):
    """The file cannot carry the mark that says that AI made it."""


class SignerUnavailable(Exception):
    """No signature can be had at the moment. The same work is done again later."""


class MarkingImpossible(Exception):
    """The signing key and its certificates make no valid mark. The cause is the configuration, not a file."""
