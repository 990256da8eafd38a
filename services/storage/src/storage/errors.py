"""What can be wrong with a file, and what is wrong with something else."""

from contracts.storage import RejectionCode


class Rejected(Exception):
    """The file is not what it should be. ``code`` says in which way; trying again changes nothing."""

    def __init__(self, code: RejectionCode, detail: str) -> None:
        # Both arguments, so that it survives the way back from a decoder process.
        super().__init__(code, detail)
        self.code: RejectionCode = code
        self.detail = detail


class StoreUnavailable(Exception):
    """The object store gave no usable answer: the same work is done again later."""


class DecoderFailed(Exception):
    """The decoder died or took too long on this file; whether the file is to blame shows when it happens again.

    ``file`` is what the question calls it.
    """

    file: str | None = None


class DecoderNotStarted(Exception):
    """A decoder process ended before it was given a file: the installation or the machine is to blame, and no file."""
