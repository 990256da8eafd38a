"""Reads the data files, and refuses those that contradict themselves."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final, TypeVar

import msgspec

from catalogue.checking import problems
from catalogue.errors import InvalidCatalogue, UnknownModel
from catalogue.model import Model

MODELS: Final = files("catalogue").joinpath("models")

Content = TypeVar("Content")


class Catalogue:
    """Every model, by id, the retired ones included. ``offered`` are those that can be ordered."""

    def __init__(self, models: tuple[Model, ...]) -> None:
        self.models = models
        self.offered = tuple(model for model in models if not model.retired)
        self._by_id = {model.id: model for model in models}

    @property
    def node_names(self) -> frozenset[str]:
        """What the nodes of all workflows are called: their titles, and their ids where they have none."""
        nodes = (node for model in self.models for tier in model.tiers for node in tier.workflow.items())
        return frozenset(node.get("_meta", {}).get("title", node_id) for node_id, node in nodes)

    def model(self, model_id: str) -> Model:
        """One model, retired or not. Raises ``UnknownModel``."""
        try:
            return self._by_id[model_id]
        except KeyError:
            raise UnknownModel(model_id) from None

    def offered_model(self, model_id: str) -> Model:
        """One model that can be ordered. Raises ``UnknownModel`` also for a retired one."""
        model = self.model(model_id)
        if model.retired:
            raise UnknownModel(model_id)
        return model


def load_catalogue(models: Traversable = MODELS) -> Catalogue:
    """Read and check every data file. Raises ``InvalidCatalogue``, naming the file and what is wrong in it."""
    directories = sorted(models.iterdir(), key=lambda entry: entry.name)
    return Catalogue(tuple(_load(directory) for directory in directories if directory.is_dir()))


def _load(directory: Traversable) -> Model:
    model = _read(directory, "model.json", Model)
    tiers = tuple(
        msgspec.structs.replace(tier, workflow=_read(directory, tier.workflow_file, dict[str, dict[str, Any]]))
        for tier in model.tiers
    )
    model = msgspec.structs.replace(model, tiers=tiers)
    found = list(problems(model, directory.name))
    if found:
        raise InvalidCatalogue("\n".join(f"{directory.name}/{problem}" for problem in found))
    return model


def _read(directory: Traversable, name: str, content: type[Content]) -> Content:
    try:
        return msgspec.json.decode(directory.joinpath(name).read_bytes(), type=content)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidCatalogue(f"{directory.name}/{name}: {error}") from error
