"""Which models this worker can run: at the start, by sizes and headers."""

from collections.abc import Collection
from dataclasses import dataclass

from gpu_endpoint.model_store.sources import Sources
from gpu_endpoint.provision.files import Trouble, trouble_at, troubles_by
from gpu_endpoint.provision.manifest import LockFile, Manifest, ModelFile


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedModels:
    """What the check found. ``usable`` are models with all their files."""

    usable: frozenset[str]
    troubles: tuple[Trouble, ...]

    def reason_against(self, required: Collection[str]) -> str | None:
        """Why the worker must not start: a required model is not usable, or, if none is required, none is at all."""
        missing = sorted(set(required) - self.usable) if required else []
        if self.usable and not missing:
            return None
        concerned = [trouble for trouble in self.troubles if not missing or trouble.model in missing]
        listed = "; ".join(f"{trouble.model}: {trouble.path} is {trouble.what}" for trouble in concerned)
        return f"{'not usable: ' + ', '.join(missing) if missing else 'no model is usable'}: {listed}"


def check_models(sources: Sources, manifest: Manifest, lock: LockFile) -> CheckedModels:
    """Look at every file of every model, wherever it is found first."""

    def look(file: ModelFile) -> str | None:
        found = sources.find(file)
        return trouble_at(found[0], file, lock, deep=False) if found else "missing"

    troubles = tuple(troubles_by(manifest, look))
    usable = manifest.models.keys() - {trouble.model for trouble in troubles}
    return CheckedModels(usable=frozenset(usable), troubles=troubles)
