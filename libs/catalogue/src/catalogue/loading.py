"""Reading the data files, and refusing those that contradict themselves."""

from collections.abc import Iterator
from fractions import Fraction
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from catalogue.errors import InvalidCatalogue, UnknownModel
from catalogue.model import Model

_ALWAYS = ("width", "height", "steps", "seed", "prompt")
_FOR_VIDEO = ("duration_seconds", "frames_per_second")


class Catalogue:
    """Every model, by id."""

    def __init__(self, models: tuple[Model, ...]) -> None:
        self.models = models
        self._by_id = {model.id: model for model in models}

    def model(self, model_id: str) -> Model:
        """One model. Raises ``UnknownModel``."""
        try:
            return self._by_id[model_id]
        except KeyError:
            raise UnknownModel(model_id) from None


def load_catalogue() -> Catalogue:
    """Read and check every data file. Raises ``InvalidCatalogue``, naming the file and what is wrong in it."""
    directories = sorted(files("catalogue").joinpath("models").iterdir(), key=lambda entry: entry.name)
    return Catalogue(tuple(_load(directory) for directory in directories if directory.is_dir()))


def _load(directory: Traversable) -> Model:
    try:
        workflow = msgspec.json.decode(directory.joinpath("workflow.json").read_bytes(), type=dict[str, dict[str, Any]])
        model = msgspec.json.decode(directory.joinpath("model.json").read_bytes(), type=Model)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidCatalogue(f"{directory.name}: {error}") from error
    model = msgspec.structs.replace(model, workflow=workflow)
    problems = list(_problems(model, directory.name))
    if problems:
        raise InvalidCatalogue(f"{directory.name}: {'; '.join(problems)}")
    return model


def _problems(model: Model, directory_name: str) -> Iterator[str]:
    if model.id != directory_name:
        yield f"id '{model.id}' is not the name of its directory"
    try:
        Draft202012Validator.check_schema(model.parameters_schema)
    except SchemaError as error:
        yield f"parameters_schema: {error.message}"
        return
    properties = model.parameters_schema.get("properties", {})
    if model.parameters_schema.get("additionalProperties") is not False:
        yield "parameters_schema: additionalProperties must be false"
    for name in (*_ALWAYS, *(_FOR_VIDEO if model.kind == "video" else ())):
        if name not in properties:
            yield f"parameters_schema: '{name}' is missing"
    for field in msgspec.structs.fields(model.price):
        if Fraction(getattr(model.price, field.name)) < 0:
            yield f"price: {field.name} is negative"
    if model.provider_ttl_seconds < model.execution_timeout_seconds:
        yield "provider_ttl_seconds is shorter than execution_timeout_seconds"
    yield from _binding_problems(model, properties)


def _binding_problems(model: Model, properties: dict[str, Any]) -> Iterator[str]:
    for binding in model.bindings:
        if binding.parameter not in properties:
            yield f"bindings: '{binding.parameter}' is no parameter"
        if binding.input not in model.workflow.get(binding.node, {}).get("inputs", {}):
            yield f"bindings: node {binding.node} has no input '{binding.input}'"
    for unbound in sorted(set(properties) - {binding.parameter for binding in model.bindings}):
        yield f"bindings: '{unbound}' goes nowhere"
    for node_id, node in model.workflow.items():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] not in model.workflow:
                yield f"workflow: input '{name}' of node {node_id} comes from node {value[0]}, which does not exist"
