"""One model: its parameters, its price, its output, and the ComfyUI workflow that makes it."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from catalogue.errors import FieldError, InvalidParameters
from catalogue.pricing import PriceRule, Quote, Surcharges

LARGEST_SEED: Final = 2**32 - 1

_FORMATS: Final = FormatChecker(formats=())

Kind = Literal["video", "image"]
Transform = Literal["frames", "half", "float", "image_name"]


class Binding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The node and input that a parameter sets in the workflow, and how its value is transformed for them."""

    parameter: str
    node: str
    input: str
    transform: Transform | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds that a schema cannot express. ``frame_step`` N means that the model makes N x k + 1 frames."""

    max_pixels: int
    frame_step: int = 1


@dataclass(frozen=True)
class ExpectedOutput:
    """The measures of a correct result. Pictures have neither duration nor frame rate."""

    width_pixels: int
    height_pixels: int
    duration_ms: int | None
    frames_per_second: float | None


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model as its data file describes it. Times are in seconds, sizes in bytes; ``endpoint`` is a logical name."""

    id: str
    title: str
    description: str
    kind: Kind
    endpoint: str
    parameters_schema: dict[str, Any]
    price: PriceRule
    limits: Limits
    execution_timeout_seconds: int
    provider_ttl_seconds: int
    order_deadline_seconds: int
    max_output_size_bytes: int
    output_extension: str
    output_content_type: str
    bindings: tuple[Binding, ...]
    surcharges: Surcharges = Surcharges()
    workflow: dict[str, Any] = {}

    @property
    def upload_parameters(self) -> tuple[str, ...]:
        """The parameters that name an uploaded file."""
        properties = self.parameters_schema["properties"]
        return tuple(name for name, schema in properties.items() if schema.get("format") == "upload-id")

    def complete(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Fill in the defaults, and a random seed where none was given. Raises ``InvalidParameters``."""
        validator = Draft202012Validator(self.parameters_schema, format_checker=_FORMATS)
        errors: dict[str, FieldError] = {}
        for error in validator.iter_errors(parameters):
            for found in _field_errors(error):
                # One error for each field: an empty prompt also has no visible character.
                errors.setdefault(found.field, found)
        if errors:
            raise InvalidParameters(tuple(errors[field] for field in sorted(errors)))
        properties = self.parameters_schema["properties"]
        defaults = {name: schema["default"] for name, schema in properties.items() if "default" in schema}
        complete = {"seed": random.SystemRandom().randint(0, LARGEST_SEED)} | defaults | parameters
        for name, value in complete.items():
            # JSON Schema accepts 5.0 as an integer. A node that wants an integer does not.
            if properties[name].get("type") == "integer":
                complete[name] = int(value)
        if complete["width"] * complete["height"] > self.limits.max_pixels:
            message = f"width x height may be at most {self.limits.max_pixels} pixels"
            raise InvalidParameters(tuple(FieldError(name, "too_many_pixels", message) for name in ("height", "width")))
        return complete

    def quote(self, parameters: dict[str, Any]) -> Quote:
        """The price of complete parameters."""
        return self.price.quote(parameters, self.surcharges)

    def expected_output(self, parameters: dict[str, Any]) -> ExpectedOutput:
        """The measures that the result of complete parameters must have."""
        if self.kind == "image":
            return ExpectedOutput(parameters["width"], parameters["height"], None, None)
        rate = parameters["frames_per_second"]
        duration_ms = round(1000 * self._frames(parameters) / rate)
        return ExpectedOutput(parameters["width"], parameters["height"], duration_ms, float(rate))

    def bind_workflow(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The ComfyUI workflow, in API format, that makes complete parameters."""
        workflow: dict[str, Any] = copy.deepcopy(self.workflow)
        for binding in self.bindings:
            value = self._transformed(binding, parameters)
            workflow[binding.node]["inputs"][binding.input] = value
        return workflow

    def _frames(self, parameters: dict[str, Any]) -> int:
        """Frames of a clip: at least as many as ordered, and a number that the model can make."""
        wanted: int = parameters["duration_seconds"] * parameters["frames_per_second"]
        step = self.limits.frame_step
        return ceil(wanted / step) * step + (1 if step > 1 else 0)

    def _transformed(self, binding: Binding, parameters: dict[str, Any]) -> Any:
        value = parameters[binding.parameter]
        transforms: dict[Transform, Callable[[], Any]] = {
            "frames": lambda: self._frames(parameters),
            "half": lambda: value // 2,
            "float": lambda: float(value),
            # The worker saves the picture under the parameter's name before it runs the workflow.
            "image_name": lambda: f"{binding.parameter}.png",
        }
        return value if binding.transform is None else transforms[binding.transform]()


@_FORMATS.checks("upload-id", raises=ValueError)
def _is_upload_id(value: object) -> bool:
    return not isinstance(value, str) or str(UUID(value)) == value.lower()


def _field_errors(error: ValidationError) -> list[FieldError]:
    """A schema error, by field: a missing or unknown field is named itself, not its parent."""
    path = ".".join(str(part) for part in error.absolute_path)
    instance: Any = error.instance
    rule: Any = error.validator_value
    schema: Any = error.schema
    if error.validator == "required":
        return [FieldError(name, "required", "is required") for name in rule if name not in instance]
    if error.validator == "additionalProperties":
        unknown = sorted(name for name in instance if name not in schema["properties"])
        return [FieldError(name, "unknown", "is not a parameter of this model") for name in unknown]
    # The value itself is not repeated: it may be long or private.
    messages = {
        "type": f"must be of type {rule}",
        "minimum": f"must be at least {rule}",
        "maximum": f"must be at most {rule}",
        "multipleOf": f"must be a multiple of {rule}",
        "minLength": f"must have at least {rule} characters",
        "maxLength": f"must have at most {rule} characters",
        "enum": f"must be one of {rule}",
        "pattern": "must have a character that can be seen",
        "format": "must be the id of an upload",
    }
    name = str(error.validator)
    return [FieldError(path, name, messages.get(name, "is not valid"))]
