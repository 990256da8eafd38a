"""The model files of one worker, as the renderer sees them."""

import logging
from collections.abc import Collection
from pathlib import Path

from gpu_endpoint.failures import WorkerMisconfigured
from gpu_endpoint.model_store.check import CheckedModels, check_models
from gpu_endpoint.model_store.copying import RateLimit
from gpu_endpoint.model_store.hydration import Hydration
from gpu_endpoint.model_store.local_disk import LocalDisk
from gpu_endpoint.model_store.settings import ModelStoreSettings
from gpu_endpoint.model_store.sources import Sources
from gpu_endpoint.provision.errors import InvalidFile
from gpu_endpoint.provision.manifest import LockFile, Manifest, ModelFile, read_manifest
from gpu_endpoint.provision.model_paths import model_paths_yaml

_log = logging.getLogger(__name__)


class ModelStore:
    """``directory`` is for links into the host's cache and for the file that tells ComfyUI of all directories."""

    def __init__(self, settings: ModelStoreSettings, directory: Path) -> None:
        self.settings = settings
        try:
            self._manifest = read_manifest(settings.manifest)
            self._lock = LockFile(settings.lock)
            self._manifest.of(settings.pinned + settings.required)
        except InvalidFile as error:
            raise ValueError(str(error)) from error
        self._sources = Sources(settings.volume, settings.hub_cache)
        self._links = directory / "cached"
        self._paths_file = directory / "extra_model_paths.yaml"
        self._hydration: Hydration | None = None
        self.usable: frozenset[str] = frozenset()

    @property
    def arguments(self) -> tuple[str, ...]:
        """For ComfyUI's command line."""
        return ("--extra-model-paths-config", str(self._paths_file))

    def tell_comfyui(self) -> None:
        """Write where models are: the local disk, the host's cache, the volume. ComfyUI reads it when it starts."""
        directories = {"cached": self._links, "volume": self.settings.volume}
        if self.settings.local is not None:
            directories = {"local": self.settings.local} | directories
        self._paths_file.parent.mkdir(parents=True, exist_ok=True)
        self._paths_file.write_text(model_paths_yaml(directories, self._manifest))

    def hydrate(self) -> None:
        """Begin to copy to the local disk: what is pinned first, then the rest of the manifest while there is room."""
        if self.settings.local is None:
            return
        self.settings.local.mkdir(parents=True, exist_ok=True)
        files = self._manifest.files()
        disk = LocalDisk(self.settings.local, self.settings.local_bytes)
        disk.open(files, self._lock)
        pinned = self.files_of(self.settings.pinned)
        limit = RateLimit(self.settings.bytes_per_second)
        self._hydration = Hydration(self._sources, disk, self._lock, pinned, limit)
        self._hydration.start([*pinned, *(file for file in files if file not in pinned)], self.settings.parallel)

    def close(self) -> None:
        """Copy nothing more."""
        if self._hydration is not None:
            self._hydration.stop()

    def check(self) -> CheckedModels:
        """Name what is missing or damaged for which model, and show ComfyUI what is in the host's cache.

        Raises WorkerMisconfigured if a required model is not usable, or none at all.
        """
        for file in self._manifest.files():
            if (cached := self._sources.cached(file)) is not None:
                link = self._links / file.path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(cached)
        checked = check_models(self._sources, self._manifest, self._lock)
        for trouble in checked.troubles:
            facts = {"model": trouble.model, "path": trouble.path, "trouble": trouble.what}
            _log.warning("model_file_unusable", extra=facts)
        if (reason := checked.reason_against(self.settings.required)) is not None:
            raise WorkerMisconfigured(reason)
        self.usable = checked.usable
        _log.info("models_checked", extra={"usable": sorted(checked.usable)})
        return checked

    def use(self, names: Collection[str]) -> None:
        """A job has named these files."""
        if self._hydration is not None:
            self._hydration.use([file for file in self._manifest.files() if file.name in names])

    def wait_for(self, model: str, seconds: float) -> bool:
        """Wait until the files of a model are copied, or will not be. False if the time is over before."""
        return self._hydration is None or self._hydration.wait(self.files_of((model,)), seconds)

    def files_of(self, models: tuple[str, ...]) -> list[ModelFile]:
        """Of these models only, in their order; each once."""
        return Manifest(models={model: self._manifest.models[model] for model in models}).files()
