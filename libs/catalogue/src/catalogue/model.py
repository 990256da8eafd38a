"""One model: its parameters, its price, its output, and the ComfyUI workflow that makes it."""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from catalogue.errors import FieldError, InvalidParameters
from catalogue.gpu_cost import GpuSeconds, price_rule, usd_per_second
from catalogue.pricing import PriceRule, Quote, Surcharges

LARGEST_SEED: Final = 2**32 - 1
MAX_COUNT: Final = 4
"""Outputs of one order."""

_FORMATS: Final = FormatChecker(formats=())

Kind = Literal["video", "image"]
Transform = Literal["frames", "half", "float", "image_name", "clip_name"]
UPLOAD_EXTENSIONS: Final[dict[Transform, str]] = {"image_name": "png", "clip_name": "mp4"}
"""The transforms that make a file name of an upload's parameter, and the extension that the worker gives it."""


class Binding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The node and input that a parameter sets in the workflow, and how its value is transformed for them."""

    parameter: str
    node: str
    input: str
    transform: Transform | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds that a schema cannot express. A model makes ``frame_step`` x k + ``frame_offset`` frames.

    A ``frame_step`` of 1 means any number of frames.
    """

    max_pixels: int
    frame_step: int = 1
    frame_offset: int = 1


class Licence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the weights may be used for. ``spdx`` is None for a licence of the maker's own.

    ``excluded_territories`` are ISO 3166 codes, or ``EU``. ``conditions`` are for people, and may say "(unsure)".
    """

    name: str
    url: str
    sells: bool
    spdx: str | None = None
    excluded_territories: tuple[str, ...] = ()
    conditions: str = ""


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that a worker needs, and the folder of ComfyUI that it lies in. ``sha256`` only where it is published."""

    folder: str
    name: str
    url: str
    sha256: str | None = None


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to make the same thing, chosen by the number of steps: orders of ``from_steps`` or more belong to it.

    Each tier has its own workflow, and a price that follows from its GPU seconds.
    """

    id: str
    title: str
    gpu_seconds: GpuSeconds
    from_steps: int = 1
    surcharges: Surcharges = Surcharges()
    workflow_file: str = "workflow.json"
    workflow: dict[str, Any] = {}

    @property
    def price(self) -> PriceRule:
        """The rates in credits. Raises KeyError for an unknown GPU type."""
        return price_rule(self.gpu_seconds)

    def seconds(self, parameters: dict[str, Any]) -> Fraction:
        """GPU seconds of complete parameters, on a warm worker."""
        stated = self.gpu_seconds
        rule = PriceRule(
            base_credits=stated.base,
            per_megapixel_credits=stated.per_megapixel,
            per_megapixel_second_credits=stated.per_megapixel_second,
        )
        return rule.exact(parameters, self.surcharges)

    def cost_usd(self, parameters: dict[str, Any]) -> Fraction:
        """What the seconds of complete parameters cost, without overhead."""
        return self.usd_of(self.seconds(parameters))

    def usd_of(self, seconds: Fraction) -> Fraction:
        """What so many GPU seconds cost, without overhead."""
        return seconds * usd_per_second(self.gpu_seconds.gpu)


@dataclass(frozen=True)
class ExpectedOutput:
    """The measures of a correct result. Pictures have neither duration nor frame rate.

    ``frames_per_second`` is None also where it is that of the user's clip.
    """

    width_pixels: int
    height_pixels: int
    duration_ms: int | None
    frames_per_second: float | None


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model as its data file describes it. Times are in seconds, sizes in bytes; ``endpoint`` is a logical name.

    ``audio``: the clips have sound. ``vram_gb`` is the smallest class of GPU that it runs on.
    A ``retired`` model is no longer offered. Its queued orders still run, and its old ones are still shown.
    """

    id: str
    title: str
    description: str
    kind: Kind
    endpoint: str
    parameters_schema: dict[str, Any]
    tiers: tuple[Tier, ...]
    licence: Licence
    files: tuple[ModelFile, ...]
    vram_gb: int
    limits: Limits
    execution_timeout_seconds: int
    provider_ttl_seconds: int
    order_deadline_seconds: int
    max_output_size_bytes: int
    output_extension: str
    output_content_type: str
    bindings: tuple[Binding, ...]
    audio: bool = False
    retired: bool = False
    notes: str = ""

    @property
    def upload_parameters(self) -> tuple[str, ...]:
        """The parameters that name an uploaded file."""
        properties = self.parameters_schema["properties"]
        return tuple(name for name, schema in properties.items() if schema.get("format") == "upload-id")

    @property
    def clip_parameters(self) -> tuple[str, ...]:
        """Those of the upload parameters that name a clip and not a picture."""
        clips = {binding.parameter for binding in self.bindings if binding.transform == "clip_name"}
        return tuple(name for name in self.upload_parameters if name in clips)

    def upload_name(self, parameter: str) -> str:
        """The name under which the worker saves an uploaded file before it runs the workflow."""
        (extension,) = {
            UPLOAD_EXTENSIONS[binding.transform]
            for binding in self.bindings
            if binding.parameter == parameter and binding.transform in UPLOAD_EXTENSIONS
        }
        return f"{parameter}.{extension}"

    @property
    def max_count(self) -> int:
        """How many outputs an order may ask for. A model without a seed would make the same one again."""
        return MAX_COUNT if "seed" in self.parameters_schema["properties"] else 1

    def variants(self, parameters: dict[str, Any], count: int) -> list[dict[str, Any]]:
        """The parameters of each output of an order, from the complete ones of the first: their seeds follow on.

        After the largest seed comes 0. Raises ValueError for more than ``max_count``.
        """
        if not 1 <= count <= self.max_count:
            raise ValueError(f"{count} outputs of {self.id}, which makes 1 to {self.max_count}")
        seeds = ((parameters.get("seed", 0) + number) % (LARGEST_SEED + 1) for number in range(1, count))
        return [parameters, *(parameters | {"seed": seed} for seed in seeds)]

    def missing_texts(self, parameters: dict[str, Any]) -> frozenset[str]:
        """Texts and files that an order needs, and that are not given or empty. No price depends on them."""
        properties = self.parameters_schema["properties"]
        texts = [
            name for name in self.parameters_schema.get("required", ()) if properties[name].get("type") == "string"
        ]
        return frozenset(name for name in texts if not str(parameters.get(name, "")).strip())

    def complete(self, parameters: dict[str, Any], but: Collection[str] = ()) -> dict[str, Any]:
        """Fill in the defaults, and a random seed where none was given. Raises ``InvalidParameters``.

        Parameters in ``but`` are left out, required or not.
        """
        parameters = {name: value for name, value in parameters.items() if name not in but}
        validator = Draft202012Validator(self.parameters_schema, format_checker=_FORMATS)
        errors: dict[str, FieldError] = {}
        for error in validator.iter_errors(parameters):
            for found in _field_errors(error):
                # One error for each field: an empty prompt also has no visible character.
                errors.setdefault(found.field, found)
        errors = {field: found for field, found in errors.items() if field not in but}
        if errors:
            raise InvalidParameters(tuple(errors[field] for field in sorted(errors)))
        properties = self.parameters_schema["properties"]
        complete = self.defaults | parameters
        if "seed" in properties:
            complete = {"seed": random.SystemRandom().randint(0, LARGEST_SEED)} | complete
        for name, value in complete.items():
            # JSON Schema accepts 5.0 as an integer. A node that wants an integer does not.
            if properties[name].get("type") == "integer":
                complete[name] = int(value)
        if complete["width"] * complete["height"] > self.limits.max_pixels:
            message = f"width x height may be at most {self.limits.max_pixels} pixels"
            raise InvalidParameters(tuple(FieldError(name, "too_many_pixels", message) for name in ("height", "width")))
        return complete

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters that have a default, with it."""
        properties = self.parameters_schema["properties"]
        return {name: schema["default"] for name, schema in properties.items() if "default" in schema}

    @property
    def default_tier(self) -> Tier:
        """The tier of an order that does not choose one."""
        return self.tier(self.defaults)

    def tier(self, parameters: dict[str, Any]) -> Tier:
        """The tier that makes these parameters: the last one that begins at or below their steps."""
        steps = parameters.get("steps", self.tiers[0].from_steps)
        return next((tier for tier in reversed(self.tiers) if tier.from_steps <= steps), self.tiers[0])

    def quote(self, parameters: dict[str, Any]) -> Quote:
        """The price of complete parameters."""
        tier = self.tier(parameters)
        return tier.price.quote(parameters, tier.surcharges)

    def expected_output(self, parameters: dict[str, Any]) -> ExpectedOutput:
        """The measures that the result of complete parameters must have."""
        if self.kind == "image":
            return ExpectedOutput(parameters["width"], parameters["height"], None, None)
        rate = parameters.get("frames_per_second")
        if rate is None:
            # A clip that is made of the user's clip has the rate of that one, or a multiple of it.
            duration_ms = 1000 * parameters["duration_seconds"]
            return ExpectedOutput(parameters["width"], parameters["height"], duration_ms, None)
        duration_ms = round(1000 * self._frames(parameters) / rate)
        return ExpectedOutput(parameters["width"], parameters["height"], duration_ms, float(rate))

    def bind_workflow(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The ComfyUI workflow, in API format, that makes complete parameters."""
        # Nodes and their inputs are the caller's to change. A deep copy takes five times as long.
        nodes = self.tier(parameters).workflow
        workflow = {name: node | {"inputs": dict(node["inputs"])} for name, node in nodes.items()}
        for binding in self.bindings:
            workflow[binding.node]["inputs"][binding.input] = self._transformed(binding, parameters)
        return workflow

    def _frames(self, parameters: dict[str, Any]) -> int:
        """Frames of a clip: the smallest number that the model can make, and that is larger than what was ordered."""
        wanted: int = parameters["duration_seconds"] * parameters["frames_per_second"]
        step, offset = self.limits.frame_step, self.limits.frame_offset
        return wanted if step == 1 else max(0, ceil((wanted + 1 - offset) / step)) * step + offset

    def _transformed(self, binding: Binding, parameters: dict[str, Any]) -> Any:
        value = parameters[binding.parameter]
        transforms: dict[Transform, Callable[[], Any]] = {
            "frames": lambda: self._frames(parameters),
            "half": lambda: value // 2,
            "float": lambda: float(value),
            "image_name": lambda: self.upload_name(binding.parameter),
            "clip_name": lambda: self.upload_name(binding.parameter),
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
