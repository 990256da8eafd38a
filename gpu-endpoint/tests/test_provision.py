"""Models on a volume, from a file server that misbehaves."""

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from gpu_endpoint.provision import download
from gpu_endpoint.provision.download import Downloads, DownloadSettings
from gpu_endpoint.provision.errors import InvalidFile
from gpu_endpoint.provision.files import is_whole, troubles
from gpu_endpoint.provision.manifest import LockFile, Manifest, ModelFile
from gpu_endpoint.provision.model_paths import model_paths_yaml


def weights(seed: int, size: int = 300_000) -> bytes:
    """A safetensors file of one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([seed]) * size


@dataclass
class FileServer:
    """Each ``cut`` ends one transfer after so many bytes. ``damaged`` bodies are sent first."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    hub_says: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    open: int = 0
    most_open: int = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.headers.get("Range")))
        body = self.files[request.match_info["name"]]
        if request.method == "HEAD":
            return web.Response(headers={"X-Linked-Etag": f'"{self.hub_says}"'} if self.hub_says else {})
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return web.Response(status=status)
        if self.damaged:
            body = self.damaged.pop(0)
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        start = self.start(request, etag)
        if start > len(body):
            return web.Response(status=416)
        answer = web.StreamResponse(status=206 if start else 200)
        answer.content_length = len(body) - start
        if self.etags:
            answer.headers["ETag"] = etag
        if start:
            answer.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        await answer.prepare(request)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        cut = self.cuts.pop(0) if self.cuts else len(body)
        with contextlib.suppress(ConnectionError):
            await answer.write(body[start : start + cut])
        self.open -= 1
        if start + cut < len(body) and request.transport is not None:
            request.transport.close()
        return answer

    def start(self, request: web.Request, etag: str) -> int:
        asked = request.headers.get("Range")
        if asked is None or not self.ranges or request.headers.get("If-Range", etag) != etag:
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def transfers(self) -> list[str | None]:
        return [asked for method, asked in self.requests if method == "GET"]


@dataclass
class ProvisionHarness:
    """A volume, a lock file and a server."""

    server: FileServer
    volume: Path
    lock_path: Path
    said: list[str] = field(default_factory=list)

    def file(self, name: str, body: bytes, *, published: bool = False) -> ModelFile:
        """A file of the server. ``published``: its SHA-256 is in the manifest."""
        self.server.files[name] = body
        known = hashlib.sha256(body).hexdigest() if published else None
        return ModelFile(folder="vae", name=name, url=f"{self.server.url}/{name}", sha256=known)

    @property
    def lock(self) -> LockFile:
        return LockFile(self.lock_path)

    async def bring(self, *files: ModelFile, parallel: int = 4) -> list[str]:
        """The failures."""
        settings = DownloadSettings(directory=self.volume, parallel=parallel)
        async with httpx.AsyncClient(timeout=10) as http:
            return await Downloads(http, settings, self.lock, self.said.append).all(list(files))

    def read(self, name: str) -> bytes:
        return (self.volume / "vae" / name).read_bytes()

    def names(self) -> set[str]:
        return {str(path.relative_to(self.volume)) for path in self.volume.rglob("*") if path.is_file()}


@pytest.fixture
async def provision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProvisionHarness]:
    monkeypatch.setattr(download, "_PAUSE_SECONDS", 0.001)
    server = FileServer()
    app = web.Application()
    app.router.add_route("*", "/{name}", server.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    yield ProvisionHarness(server, tmp_path / "volume", tmp_path / "lock.json")
    await runner.cleanup()


async def test_a_file_arrives_and_its_hash_is_learned(provision: ProvisionHarness) -> None:
    body = weights(1)
    assert await provision.bring(provision.file("a.safetensors", body)) == []
    assert provision.read("a.safetensors") == body
    locked = provision.lock.files["vae/a.safetensors"]
    assert (locked.sha256, locked.size_bytes) == (hashlib.sha256(body).hexdigest(), len(body))
    assert locked.learned_from == "download"


async def test_what_is_there_and_right_is_not_fetched_again(provision: ProvisionHarness) -> None:
    file = provision.file("a.safetensors", weights(1))
    await provision.bring(file)
    await provision.bring(file)
    assert len(provision.server.transfers()) == 1
    assert provision.said[-1] == "vae/a.safetensors: already there"


async def test_a_cut_transfer_goes_on_where_it_ended(provision: ProvisionHarness) -> None:
    body = weights(2)
    file = provision.file("a.safetensors", body, published=True)
    provision.server.cuts = [100_000, 50_000]
    assert await provision.bring(file) == []
    assert provision.read("a.safetensors") == body
    assert provision.server.transfers()[0] is None
    assert all(asked is not None for asked in provision.server.transfers()[1:])
    assert provision.names() == {"vae/a.safetensors"}


async def test_a_server_without_ranges_sends_it_whole_again(provision: ProvisionHarness) -> None:
    body = weights(3)
    provision.server.ranges = False
    provision.server.cuts = [100_000]
    assert await provision.bring(provision.file("a.safetensors", body)) == []
    assert provision.read("a.safetensors") == body


async def test_a_part_of_an_older_file_is_not_gone_on_with(provision: ProvisionHarness) -> None:
    """Nobody knows the hash: a mixture of two files would be learned as right."""
    body = weights(5)
    file = provision.file("a.safetensors", body)
    provision.server.damaged = [weights(4)]
    provision.server.cuts = [100_000]
    assert await provision.bring(file) == []
    assert provision.read("a.safetensors") == body


async def test_without_an_etag_and_a_hash_it_begins_anew(provision: ProvisionHarness) -> None:
    provision.server.etags = False
    provision.server.cuts = [100_000]
    assert await provision.bring(provision.file("a.safetensors", weights(6))) == []
    assert provision.server.transfers() == [None, None]


async def test_a_damaged_download_is_quarantined_and_fetched_again(provision: ProvisionHarness) -> None:
    body = weights(7)
    file = provision.file("a.safetensors", body, published=True)
    provision.server.damaged = [weights(8)]
    assert await provision.bring(file) == []
    assert provision.read("a.safetensors") == body
    assert provision.names() == {"vae/a.safetensors", ".quarantine/vae/a.safetensors"}


async def test_a_file_that_is_damaged_every_time_fails(provision: ProvisionHarness) -> None:
    file = provision.file("a.safetensors", weights(7), published=True)
    other = provision.file("b.safetensors", weights(9))
    provision.server.files["a.safetensors"] = weights(8)
    [failure] = await provision.bring(file, other)
    assert "damaged every time" in failure
    assert provision.names() == {".quarantine/vae/a.safetensors", "vae/b.safetensors"}
    assert set(provision.lock.files) == {"vae/b.safetensors"}


async def test_a_page_in_place_of_a_file_is_never_learned(provision: ProvisionHarness) -> None:
    failures = await provision.bring(provision.file("a.safetensors", b"<html>please log in</html>"))
    assert len(failures) == 1
    assert provision.lock.files == {}


async def test_a_learned_hash_is_enforced(provision: ProvisionHarness) -> None:
    body = weights(10)
    file = provision.file("a.safetensors", body)
    await provision.bring(file)
    (provision.volume / file.path).write_bytes(weights(11))
    assert await provision.bring(file) == []
    assert provision.read("a.safetensors") == body

    (provision.volume / file.path).unlink()
    provision.server.files["a.safetensors"] = weights(12)
    [failure] = await provision.bring(file)
    assert hashlib.sha256(body).hexdigest() in failure


async def test_the_hub_tells_the_hash_before_the_download(provision: ProvisionHarness) -> None:
    body = weights(13)
    file = provision.file("a.safetensors", body)
    provision.server.hub_says = hashlib.sha256(body).hexdigest()
    provision.server.damaged = [weights(14)]
    assert await provision.bring(file) == []
    assert provision.read("a.safetensors") == body
    assert provision.lock.files[file.path].learned_from == "hub"


async def test_passing_trouble_is_outlived_and_refusal_is_not(provision: ProvisionHarness) -> None:
    file = provision.file("a.safetensors", weights(15))
    provision.server.statuses = [503, 429, 500]
    assert await provision.bring(file) == []
    (provision.volume / file.path).unlink()
    provision.server.statuses = [401]
    [failure] = await provision.bring(file)
    assert "answers 401" in failure


async def test_without_progress_it_gives_up(provision: ProvisionHarness) -> None:
    provision.server.statuses = [503] * 50
    [failure] = await provision.bring(provision.file("a.safetensors", weights(1)))
    assert "5 tries without progress" in failure


async def test_files_come_side_by_side_up_to_a_bound(provision: ProvisionHarness) -> None:
    files = [provision.file(f"{number}.safetensors", weights(number, 8_000_000)) for number in range(6)]
    assert await provision.bring(*files, parallel=2) == []
    assert provision.server.most_open == 2


async def test_the_check_names_file_and_model(provision: ProvisionHarness) -> None:
    good = provision.file("good.safetensors", weights(1))
    cut = provision.file("cut.safetensors", weights(2))
    wrong = provision.file("wrong.safetensors", weights(3))
    missing = provision.file("missing.safetensors", weights(4))
    await provision.bring(good, cut, wrong)
    (provision.volume / cut.path).write_bytes(weights(2)[:-5])
    (provision.volume / wrong.path).write_bytes(weights(9))
    manifest = Manifest(models={"one": (good, missing, cut), "two": (good, missing, wrong)})

    def found(*, deep: bool) -> set[tuple[str, str, str]]:
        listed = troubles(provision.volume, manifest, provision.lock, deep=deep)
        return {(trouble.model, trouble.path, trouble.what.split(":")[0]) for trouble in listed}

    quick = {("one", missing.path, "missing"), ("two", missing.path, "missing"), ("one", cut.path, "damaged")}
    assert found(deep=False) == quick
    assert found(deep=True) == quick | {("two", wrong.path, "damaged")}


async def test_manifest_and_lock_must_agree(provision: ProvisionHarness) -> None:
    await provision.bring(provision.file("a.safetensors", weights(1)))
    with pytest.raises(InvalidFile, match="the lock says"):
        await provision.bring(provision.file("a.safetensors", weights(2), published=True))


def test_a_path_out_of_the_volume_is_refused() -> None:
    file = ModelFile(folder="vae", name="x/../../../evil", url="http://x/")
    with pytest.raises(InvalidFile, match="leaves"):
        Manifest(models={"m": (file,)}).files()


def test_a_safetensors_file_is_whole_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for body, whole in ((weights(1), True), (weights(1)[:-1], False), (weights(1) + b"x", False), (b"", False)):
        path.write_bytes(body)
        assert is_whole(path) is whole


def test_the_model_paths_name_every_folder_of_the_manifest() -> None:
    file = ModelFile(folder="brand_new", name="x.safetensors", url="http://x/")
    text = model_paths_yaml({"volume": Path("/runpod-volume/models")}, Manifest(models={"m": (file,)}))
    assert "  base_path: /runpod-volume/models\n" in text
    assert "  brand_new: |\n    brand_new\n" in text
    assert "  diffusion_models: |\n    diffusion_models\n    unet\n" in text


def test_the_command_checks_an_empty_volume(tmp_path: Path) -> None:
    manifest = Path(__file__).parents[1] / "models.json"
    arguments = [
        "--manifest",
        manifest,
        "--directory",
        tmp_path,
        "--lock",
        tmp_path / "lock.json",
        "check",
        "wan-2.2-t2v",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "gpu_endpoint.provision", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "wan-2.2-t2v: vae/wan_2.1_vae.safetensors is missing\n" in done.stdout


async def test_the_command_downloads(provision: ProvisionHarness, tmp_path: Path) -> None:
    file = provision.file("a.safetensors", weights(1))
    manifest = tmp_path / "models.json"
    entry = {"folder": file.folder, "name": file.name, "url": file.url}
    manifest.write_text(json.dumps({"models": {"m": [entry]}}))
    arguments = ["--manifest", manifest, "--directory", provision.volume, "--lock", provision.lock_path, "download"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gpu_endpoint.provision", *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    assert printed.decode() == "vae/a.safetensors: downloaded\n"
    assert set(provision.lock.files) == {"vae/a.safetensors"}
