"""The description of what must stand at RunPod, and the fields of RunPod's REST API that follow from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from gpu_endpoint.deploy.errors import InvalidDescription

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=191)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Fields = Mapping[str, Any]
"""Fields of the REST API by their names there."""


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The container that a worker is."""

    name: Name
    image: Name
    container_disk_gb: Annotated[int, msgspec.Meta(ge=1)] = 20
    registry_auth_id: str = ""
    start_command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    """Names and values. A secret is a reference, ``{{ RUNPOD_SECRET_name }}``, never the value."""


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network volume. It can grow; it can neither shrink nor move."""

    name: Name
    size_gb: Annotated[int, msgspec.Meta(ge=10, le=4096)]
    data_centre: Name


class Scaler(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``QUEUE_DELAY``: seconds that a job may wait. ``REQUEST_COUNT``: jobs for each worker."""

    type: Literal["QUEUE_DELAY", "REQUEST_COUNT"] = "QUEUE_DELAY"
    value: Annotated[int, msgspec.Meta(ge=1)] = 4


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The endpoint."""

    name: Name
    gpu_types: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Full names, in order of preference."""
    gpu_count: Annotated[int, msgspec.Meta(ge=1)] = 1
    data_centres: tuple[str, ...] = ()
    """Where there are volumes, their data centres are taken, and this stays empty."""
    workers_min: Count = 0
    workers_max: Count = 3
    idle_timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 5
    execution_timeout_seconds: Annotated[int, msgspec.Meta(ge=5, le=604_800)] = 600
    scaler: Scaler = Scaler()
    flashboot: bool = True
    cuda_versions: tuple[str, ...] = ()


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One endpoint with its template and its volumes."""

    template: Template
    endpoint: Endpoint
    volumes: tuple[Volume, ...] = ()

    def data_centres(self) -> tuple[str, ...]:
        """Where workers may run."""
        return tuple(volume.data_centre for volume in self.volumes) or self.endpoint.data_centres


def read_description(path: Path) -> Description:
    """A TOML or JSON file. Raises InvalidDescription, naming the field."""
    decode = msgspec.json.decode if path.suffix == ".json" else msgspec.toml.decode
    try:
        description = decode(path.read_bytes(), type=Description)
    except OSError as error:
        raise InvalidDescription(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise InvalidDescription(f"{path}: {error}") from error
    if contradiction := _contradiction(description):
        raise InvalidDescription(f"{path}: {contradiction}")
    return description


def _contradiction(description: Description) -> str | None:
    endpoint = description.endpoint
    if endpoint.workers_min > endpoint.workers_max:
        return "endpoint.workers_min is larger than endpoint.workers_max"
    if description.volumes and endpoint.data_centres:
        return "endpoint.data_centres must be absent where there are volumes: theirs are taken"
    for what, values in (
        ("volumes have the name", [volume.name for volume in description.volumes]),
        ("volumes are in", [volume.data_centre for volume in description.volumes]),
    ):
        if twice := next((value for value in values if values.count(value) > 1), None):
            return f"two {what} {twice}"
    return None


def template_fields(template: Template) -> Fields:
    """For ``/templates``."""
    return {
        "name": template.name,
        "imageName": template.image,
        "containerDiskInGb": template.container_disk_gb,
        "containerRegistryAuthId": template.registry_auth_id,
        "dockerStartCmd": list(template.start_command),
        "env": template.env,
        "isServerless": True,
        "volumeInGb": 0,
    }


def volume_fields(volume: Volume) -> Fields:
    """For ``/networkvolumes``."""
    return {"name": volume.name, "size": volume.size_gb, "dataCenterId": volume.data_centre}


def endpoint_fields(description: Description, *, template_id: str, volume_ids: list[str]) -> Fields:
    """For ``/endpoints``. One volume goes into the older field, which every account has."""
    endpoint = description.endpoint
    return {
        "name": endpoint.name,
        "templateId": template_id,
        "computeType": "GPU",
        "gpuTypeIds": list(endpoint.gpu_types),
        "gpuCount": endpoint.gpu_count,
        "dataCenterIds": list(description.data_centres()),
        "networkVolumeId": volume_ids[0] if len(volume_ids) == 1 else "",
        "networkVolumeIds": volume_ids if len(volume_ids) > 1 else [],
        "workersMin": endpoint.workers_min,
        "workersMax": endpoint.workers_max,
        "idleTimeout": endpoint.idle_timeout_seconds,
        "executionTimeoutMs": endpoint.execution_timeout_seconds * 1000,
        "scalerType": endpoint.scaler.type,
        "scalerValue": endpoint.scaler.value,
        "flashboot": endpoint.flashboot,
        "allowedCudaVersions": list(endpoint.cuda_versions),
    }
