"""What can be generated and what it costs."""

from catalogue.errors import FieldError, InvalidCatalogue, InvalidParameters, UnknownModel
from catalogue.loading import Catalogue, load_catalogue
from catalogue.model import ExpectedOutput, Model
from catalogue.pricing import Quote, QuoteLine

__all__ = [
    "Catalogue",
    "ExpectedOutput",
    "FieldError",
    "InvalidCatalogue",
    "InvalidParameters",
    "Model",
    "Quote",
    "QuoteLine",
    "UnknownModel",
    "load_catalogue",
]
