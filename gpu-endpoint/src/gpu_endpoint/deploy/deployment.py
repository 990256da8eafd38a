"""Compare, create, change: volumes first, then the template, then the endpoint that names both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpu_endpoint.deploy.description import Description, Fields, endpoint_fields, template_fields, volume_fields
from gpu_endpoint.deploy.differences import differences, digests
from gpu_endpoint.deploy.errors import Ambiguous, CannotBeChanged
from gpu_endpoint.deploy.rest import Collection, RunPodRest
from gpu_endpoint.deploy.state import Known, StateFile

NOT_YET_CREATED: Final = "(not yet created)"
_FIXED: Final[Mapping[Collection, frozenset[str]]] = {
    "templates": frozenset({"isServerless"}),
    "networkvolumes": frozenset({"dataCenterId"}),
    "endpoints": frozenset({"computeType"}),
}
"""Only a creation takes them."""


@dataclass(frozen=True)
class Step:
    """What was, or would be, done to one thing."""

    title: str
    outcome: str
    lines: tuple[str, ...] = ()
    identifier: str = NOT_YET_CREATED

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self.outcome != "as described"


class Deployment:
    """One description against one account. With ``dry``, nothing is created or changed."""

    def __init__(self, rest: RunPodRest, state: StateFile, *, dry: bool) -> None:
        self._rest = rest
        self._state = state
        self._dry = dry

    async def run(self, description: Description) -> list[Step]:
        """All steps, in the order of their doing. Raises DeployError at the first that cannot be done."""
        volumes = [
            await self._step("networkvolumes", volume.name, volume_fields(volume)) for volume in description.volumes
        ]
        template = await self._step("templates", description.template.name, template_fields(description.template))
        fields = endpoint_fields(
            description, template_id=template.identifier, volume_ids=[volume.identifier for volume in volumes]
        )
        return [*volumes, template, await self._step("endpoints", description.endpoint.name, fields)]

    async def _step(self, collection: Collection, name: str, wanted: Fields) -> Step:
        title = f"{collection}/{name}"
        found = await self.find(collection, name)
        if found is None:
            return await self._create(collection, title, wanted)
        if _is_named(found, collection, name):
            found["name"] = name
        identifier = str(found["id"])
        known = self._state.state.things.get(title)
        applied = known.applied if known is not None and known.id == identifier else {}
        changes = differences(wanted, found, applied)
        self._refuse_what_is_fixed(collection, title, {change.field for change in changes}, wanted, found)
        changed = {field: wanted[field] for field in wanted if any(change.field == field for change in changes)}
        if not self._dry:
            if changed:
                await self._rest.change(collection, identifier, changed)
            self._state.note(title, Known(identifier, digests(wanted)))
        outcome = "as described" if not changed else "would be changed" if self._dry else "changed"
        return Step(title, outcome, tuple(change.line for change in changes), identifier)

    async def _create(self, collection: Collection, title: str, wanted: Fields) -> Step:
        if self._dry:
            return Step(title, "would be created")
        fields = {field: value for field, value in wanted.items() if value not in ("", [])}
        identifier = str((await self._rest.create(collection, fields))["id"])
        self._state.note(title, Known(identifier, digests(wanted)))
        return Step(title, "created", identifier=identifier)

    async def find(self, collection: Collection, name: str) -> dict[str, Any] | None:
        """By the id in the state file, else by name. Raises Ambiguous if several have the name."""
        known = self._state.state.things.get(f"{collection}/{name}")
        if known is not None and (found := await self._rest.find(collection, known.id)) is not None:
            return found
        same = [thing for thing in await self._rest.list(collection) if _is_named(thing, collection, name)]
        if len(same) > 1:
            identifiers = ", ".join(sorted(str(thing["id"]) for thing in same))
            raise Ambiguous(
                f"{collection}: {len(same)} have the name {name}: {identifiers}. "
                "Write the right one's id into the state file, or delete the others"
            )
        return same[0] if same else None

    def _refuse_what_is_fixed(
        self, collection: Collection, title: str, changed: set[str], wanted: Fields, found: Mapping[str, Any]
    ) -> None:
        if fixed := sorted(changed & _FIXED[collection]):
            raise CannotBeChanged(f"{title}: {', '.join(fixed)} cannot be changed; give it another name")
        if "size" in changed and wanted["size"] < found.get("size", 0):
            raise CannotBeChanged(f"{title}: a volume cannot shrink from {found['size']} to {wanted['size']} GB")


def _is_named(thing: Mapping[str, Any], collection: Collection, name: str) -> bool:
    """RunPod appends `` -fb`` to the name of an endpoint with FlashBoot."""
    shown = str(thing.get("name", ""))
    return shown == name or (collection == "endpoints" and shown == f"{name} -fb")
