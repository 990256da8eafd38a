"""Errors in a request, or in the data files themselves."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with one parameter. ``code`` is stable (``required``, ``maximum``); ``message`` is for people."""

    field: str
    code: str
    message: str


class InvalidParameters(Exception):
    """The parameters do not fit the model's schema or limits; ``errors`` names every field that is wrong."""

    def __init__(self, errors: tuple[FieldError, ...]) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = errors


class UnknownModel(Exception):
    """No model has this id."""


class InvalidCatalogue(Exception):
    """A data file contradicts itself; the message names the file and the field."""
