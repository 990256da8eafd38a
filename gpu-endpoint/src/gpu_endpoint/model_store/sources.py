"""Where a model file is found: in the host's cache of the hub, or on the volume."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from gpu_endpoint.provision.manifest import ModelFile


class Sources:
    """The cache first: it lies on the host itself."""

    def __init__(self, volume: Path, hub_cache: Path) -> None:
        self.volume = volume
        self._hub_cache = hub_cache

    def find(self, file: ModelFile) -> list[Path]:
        """Where the file is, the best place first."""
        cached = self.cached(file)
        path = self.volume / file.path
        return ([cached] if cached is not None else []) + ([path] if path.is_file() else [])

    def cached(self, file: ModelFile) -> Path | None:
        """The file in the hub's cache: ``models--ORG--NAME/snapshots/COMMIT/PATH``, a link to a blob.

        The commit is that of ``refs/REVISION``, as the hub's library writes it. A cache without it has one snapshot.
        """
        parts = unquote(urlsplit(file.url).path).strip("/").split("/")
        if len(parts) < 5 or parts[2] != "resolve":  # ORG/NAME/resolve/REVISION/PATH
            return None
        organisation, name, _, revision, *inside = parts
        repository = self._hub_cache / f"models--{organisation}--{name}"
        reference = repository / "refs" / revision
        if reference.is_file():
            commits = [repository / "snapshots" / reference.read_text().strip()]
        else:
            commits = sorted(repository.glob("snapshots/*"))
        found = [path for commit in commits if (path := commit.joinpath(*inside)).is_file()]
        return found[0] if len(found) == 1 else None
