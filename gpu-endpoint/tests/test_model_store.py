"""Model files between the host's cache, the volume and the local disk."""

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpu_endpoint.failures import WorkerMisconfigured
from gpu_endpoint.model_store import ModelStore, ModelStoreSettings, copying, local_disk
from gpu_endpoint.model_store.copying import RateLimit, Stopped
from gpu_endpoint.model_store.sources import Sources
from gpu_endpoint.provision.manifest import Lock, Locked, Manifest, ModelFile
from tests.test_provision import weights


@dataclass
class StoreHarness:
    """A volume, a local disk, a manifest and a lock."""

    root: Path
    log: pytest.LogCaptureFixture
    models: dict[str, tuple[ModelFile, ...]] = field(default_factory=dict)
    locked: dict[str, Locked] = field(default_factory=dict)
    stores: list[ModelStore] = field(default_factory=list)

    @property
    def volume(self) -> Path:
        return self.root / "volume"

    @property
    def local(self) -> Path:
        return self.root / "local"

    def file(self, name: str, body: bytes, *, locked: bool = True, there: bool = True) -> ModelFile:
        """A file of a model. ``there``: on the volume, too."""
        file = ModelFile(folder="vae", name=name, url=f"https://huggingface.co/Org/Name/resolve/main/split/{name}")
        if there:
            (self.volume / file.path).parent.mkdir(parents=True, exist_ok=True)
            (self.volume / file.path).write_bytes(body)
        if locked:
            sha256 = hashlib.sha256(body).hexdigest()
            self.locked[file.path] = Locked(sha256=sha256, size_bytes=len(body), learned_from="download")
        return file

    def cache(self, name: str, body: bytes, *, commit: str = "c1", reference: bool = True) -> Path:
        """A file in the host's cache of the hub, as the hub's library lays it out."""
        repository = self.root / "hub/models--Org--Name"
        blob = repository / "blobs" / hashlib.sha256(body).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(body)
        path = repository / "snapshots" / commit / "split" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(blob)
        if reference:
            (repository / "refs").mkdir(exist_ok=True)
            (repository / "refs/main").write_text(commit)
        return path

    def store(self, **changes: Any) -> ModelStore:
        """A store of what was made so far."""
        manifest, lock = self.root / "models.json", self.root / "models.lock.json"
        manifest.write_bytes(msgspec.json.encode(Manifest(models=self.models)))
        lock.write_bytes(msgspec.json.encode(Lock(files=self.locked)))
        chosen: dict[str, Any] = {"volume": self.volume, "local": self.local, "hub_cache": self.root / "hub"}
        chosen |= {"manifest": manifest, "lock": lock, "warm_ups": self.root / "warm_ups.json"}
        self.stores.append(ModelStore(ModelStoreSettings(**chosen | changes), self.root / "work"))
        return self.stores[-1]

    def hydrated(self, **changes: Any) -> ModelStore:
        """A store that has copied what it wants of the model ``m``."""
        store = self.store(**changes)
        store.hydrate()
        assert store.wait_for("m", 10)
        return store

    def names(self, directory: Path) -> set[str]:
        return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}

    def events(self, name: str) -> list[dict[str, Any]]:
        return [vars(record) for record in self.log.records if record.getMessage() == name]


@pytest.fixture
def shop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[StoreHarness]:
    caplog.set_level(logging.INFO)
    harness = StoreHarness(tmp_path, caplog)
    yield harness
    for store in harness.stores:
        store.close()


def test_files_are_copied_under_their_names(shop: StoreHarness) -> None:
    one, other = shop.file("a.safetensors", weights(1)), shop.file("b.safetensors", weights(2), locked=False)
    shop.models = {"m": (one, other)}
    shop.hydrated()
    assert shop.names(shop.local) == {one.path, other.path}
    assert (shop.local / one.path).read_bytes() == weights(1)
    [finished] = shop.events("hydration_finished")
    assert (finished["files"], finished["bytes"]) == (2, len(weights(1)) + len(weights(2)))


def test_pinned_models_come_first_and_the_rest_after_them(shop: StoreHarness) -> None:
    shop.models = {model: (shop.file(f"{model}.safetensors", weights(1)),) for model in ("a", "b", "m")}
    shop.hydrated(pinned=("m", "b"), parallel=1)
    shop.stores[0].wait_for("a", 10)
    assert [event["path"] for event in shop.events("model_file_copied")] == [
        "vae/m.safetensors",
        "vae/b.safetensors",
        "vae/a.safetensors",
    ]


def test_a_damaged_file_is_never_used_and_goes_into_quarantine(shop: StoreHarness) -> None:
    good = shop.file("good.safetensors", weights(1))
    wrong = shop.file("wrong.safetensors", weights(2))
    short = shop.file("short.safetensors", weights(3))
    unknown = shop.file("unknown.safetensors", weights(4)[:-1], locked=False)
    (shop.volume / wrong.path).write_bytes(weights(5))
    (shop.volume / short.path).write_bytes(weights(3)[:-1])
    shop.models = {"m": (good, wrong, short, unknown)}
    shop.hydrated()
    assert shop.names(shop.local) == {good.path}
    damaged = (wrong.path, short.path, unknown.path)
    assert shop.names(shop.volume) == {good.path, *(f".quarantine/{path}" for path in damaged)}
    assert {event["path"] for event in shop.events("model_file_damaged")} == set(damaged)


def test_a_file_that_was_damaged_on_its_way_is_read_again(shop: StoreHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shop.file("a.safetensors", weights(1))
    shop.models = {"m": (file,)}
    real, calls = copying.copy_verified, []

    def once_damaged(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise copying.SourceDamaged("one bit")
        real(*arguments)

    monkeypatch.setattr("gpu_endpoint.model_store.hydration.copy_verified", once_damaged)
    shop.hydrated()
    assert shop.names(shop.local) == {file.path}
    assert shop.names(shop.volume) == {file.path}


def test_the_host_s_cache_is_read_instead_of_the_volume(shop: StoreHarness) -> None:
    file = shop.file("a.safetensors", weights(1), there=False)
    shop.models = {"m": (file,)}
    cached = shop.cache("a.safetensors", weights(1))
    store = shop.hydrated()
    assert (shop.local / file.path).read_bytes() == weights(1)
    assert store.check().usable == {"m"}
    assert (shop.root / "work/cached" / file.path).samefile(cached)


def test_a_damaged_cache_is_left_alone_and_the_volume_is_read(shop: StoreHarness) -> None:
    file = shop.file("a.safetensors", weights(1))
    shop.models = {"m": (file,)}
    cached = shop.cache("a.safetensors", weights(2))
    shop.hydrated()
    assert (shop.local / file.path).read_bytes() == weights(1)
    assert cached.exists()
    [event] = shop.events("model_file_damaged")
    assert event["quarantined"] is False


def test_a_cache_of_two_commits_without_a_reference_is_not_guessed(shop: StoreHarness) -> None:
    file = shop.file("a.safetensors", weights(1))
    sources = Sources(shop.volume, shop.root / "hub")
    cached = shop.cache("a.safetensors", weights(1), reference=False)
    assert sources.find(file) == [cached, shop.volume / file.path]
    shop.cache("a.safetensors", weights(2), commit="c2", reference=False)
    assert sources.find(file) == [shop.volume / file.path]


def test_the_least_recently_used_copies_go_for_what_a_job_uses(shop: StoreHarness) -> None:
    size = len(weights(1))
    shop.models = {model: (shop.file(f"{model}.safetensors", weights(1)),) for model in ("pinned", "m", "old", "new")}
    store = shop.hydrated(pinned=("pinned",), local_bytes=3 * size, parallel=1)
    store.wait_for("new", 10)
    assert shop.names(shop.local) == {"vae/pinned.safetensors", "vae/m.safetensors", "vae/old.safetensors"}
    assert [event["path"] for event in shop.events("model_file_has_no_room")] == ["vae/new.safetensors"]
    store.use({"old.safetensors"})
    store.use({"new.safetensors"})
    assert store.wait_for("new", 10)
    assert shop.names(shop.local) == {"vae/pinned.safetensors", "vae/new.safetensors", "vae/old.safetensors"}


def test_a_share_of_the_disk_stays_free(shop: StoreHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_disk, "disk_usage", lambda _: local_disk.DiskUsage(total=1000, free=160))
    shop.models = {"m": (shop.file("a.safetensors", weights(1, 100)),)}
    shop.hydrated()
    assert shop.names(shop.local) == set()


def test_what_an_earlier_worker_left_unfinished_is_removed(shop: StoreHarness) -> None:
    file = shop.file("a.safetensors", weights(1))
    shop.models = {"m": (file,)}
    (shop.local / "vae").mkdir(parents=True)
    (shop.local / "vae/.b.safetensors.partial").write_bytes(b"x")
    (shop.local / file.path).write_bytes(weights(1)[:-7])
    shop.hydrated()
    assert shop.names(shop.local) == {file.path}
    assert (shop.local / file.path).read_bytes() == weights(1)


def test_copies_keep_to_the_limit_together() -> None:
    limit, stop = RateLimit(1000), threading.Event()
    began = time.monotonic()
    for _ in range(3):
        limit.spend(100, stop)
    assert time.monotonic() - began >= 0.2
    stop.set()
    with pytest.raises(Stopped):
        limit.spend(1, stop)


def test_comfyui_looks_on_the_local_disk_first(shop: StoreHarness) -> None:
    shop.models = {"m": (shop.file("a.safetensors", weights(1)),)}
    store = shop.store()
    store.tell_comfyui()
    text = Path(store.arguments[1]).read_text()
    places = [line.removeprefix("  base_path: ") for line in text.splitlines() if "base_path" in line]
    assert places == [str(shop.local), str(shop.root / "work/cached"), str(shop.volume)]


def test_the_check_names_what_is_missing_and_starts_with_what_is_usable(shop: StoreHarness) -> None:
    good = shop.file("good.safetensors", weights(1))
    missing = shop.file("missing.safetensors", weights(2), there=False)
    shop.models = {"good": (good,), "poor": (good, missing)}
    store = shop.store()
    assert store.check().usable == {"good"}
    [event] = shop.events("model_file_unusable")
    assert (event["model"], event["path"], event["trouble"]) == ("poor", missing.path, "missing")


def test_a_worker_without_a_model_or_without_a_required_one_does_not_start(shop: StoreHarness) -> None:
    good = shop.file("good.safetensors", weights(1))
    missing = shop.file("missing.safetensors", weights(2), there=False)
    shop.models = {"poor": (missing,)}
    with pytest.raises(WorkerMisconfigured, match=r"no model is usable: poor: vae/missing\.safetensors is missing"):
        shop.store().check()
    shop.models = {"good": (good,), "poor": (missing,)}
    with pytest.raises(WorkerMisconfigured, match="not usable: poor"):
        shop.store(required=("poor",)).check()


def test_an_unknown_model_and_a_wrong_number_are_named(shop: StoreHarness) -> None:
    with pytest.raises(ValueError, match="no model gone"):
        shop.store(pinned=("gone",))
    with pytest.raises(ValueError, match="HYDRATION_FILES must be more than 0"):
        ModelStoreSettings.from_environment({"MODELS_DIRECTORY": "/x", "HYDRATION_FILES": "-1"})
    assert ModelStoreSettings.from_environment({}) is None
