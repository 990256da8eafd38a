"""From the start of a worker's process to its first job, beside the stock ComfyUI worker's: ``make bench-start``.

Both run the same ComfyUI on the CPU with tiny random weights, whose text encoder is written out to its 470 MB, from one
file store of limited speed. The rounds alternate, and medians are compared. The stock start is written from its
documented steps. Without a checkout of ComfyUI the stand-in takes its place, and nothing is compared.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.runpod_queue import RunPodQueue
from benchmarks.throttle import NotThrottled, SlowStore
from gpu_endpoint.provision.files import sha256_of
from gpu_endpoint.provision.manifest import Lock, Locked, Manifest, read_manifest
from gpu_endpoint.renderers.comfyui import launcher

HERE: Final = Path(__file__).parent
PROJECT: Final = HERE.parent
CATALOGUE: Final = PROJECT.parent / "libs/catalogue/src/catalogue/models"
STAND_IN: Final = PROJECT / "tests/comfyui/standin"
MODEL: Final = "wan-2.2-t2v"
MOST: Final = 0.5
"""Of the stock start, from the process to the first job that can run."""
_MIB: Final = 2**20
_STORE_MIB: Final = 800
_PATIENCE_SECONDS: Final = 120


@dataclass
class Setting:
    """What all rounds share."""

    root: Path
    checkout: Path
    python: Path
    real: bool
    job_input: dict[str, Any]
    store: SlowStore | None
    mib_per_second: int
    whole: bool = True
    """Whether a round ends with the first job, and not when that can run."""

    @property
    def volume(self) -> Path:
        return self.root / "store/models"


@dataclass
class Round:
    """Seconds since the process was started, by what had happened then. ``cpu``: seconds of all processes by then."""

    at: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0


def main() -> int:
    """Codes: 0 fast enough or not judged, 1 too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib-per-second", type=int, default=40, help="of the file store")
    parser.add_argument("--start-only", action="store_true", help="end a round when the first job can run")
    arguments = parser.parse_args()
    checkout = os.environ.get("COMFYUI", "")
    python = Path(
        os.environ.get("COMFYUI_PYTHON") or (Path(checkout) / ".venv/bin/python" if checkout else sys.executable)
    )
    with prepared(checkout, python, arguments.mib_per_second) as setting:
        setting.whole = not arguments.start_only
        kinds: dict[str, Callable[[Setting], Any]] = {"ours": ours, "ours, pinned": ours_pinned}
        if arguments.start_only:
            del kinds["ours, pinned"]
        if setting.real:
            kinds = {"stock": stock} | kinds
        rounds: dict[str, list[Round]] = {kind: [] for kind in kinds}
        for number in range(1, arguments.rounds + 1):
            for kind, start in kinds.items():
                rounds[kind].append(asyncio.run(start(setting)))
                last = rounds[kind][-1]
                print(f"round {number}, {kind}: {json.dumps(last.at)} cpu {last.cpu:.1f}", flush=True)
        return report(setting, rounds)


@contextlib.contextmanager
def prepared(checkout: str, python: Path, mib_per_second: int) -> Iterator[Setting]:
    """The store with its files, ComfyUI compiled and its imports remembered as in our image, and the limit on reads."""
    with tempfile.TemporaryDirectory(prefix="bench-start-") as name:
        yield from _prepared(Path(name), checkout, python, mib_per_second)


def _prepared(root: Path, checkout: str, python: Path, mib_per_second: int) -> Iterator[Setting]:
    warm_up = json.loads((PROJECT / "warm_ups.json").read_text())[MODEL]
    job_input = {"schema": 1, "generation_id": "g", "attempt_id": str(uuid.uuid4()), "attempt_number": 1}
    job_input |= {"kind": "video", "model_id": MODEL, "parameters": {}, "workflow": warm_up["workflow"]}
    setting = Setting(root, STAND_IN, python, bool(checkout), job_input, None, mib_per_second)
    if checkout:
        for place in ("ours", "stock"):
            shutil.copytree(checkout, root / place, ignore=_not_of_the_program)
        subprocess.run([python, "-m", "compileall", "-q", root / "ours"], check=True)
        subprocess.run([python, launcher.__file__, "remember"], check=True)
        setting.checkout = root / "ours"
    try:
        setting.store = SlowStore(root / "store", _STORE_MIB, mib_per_second * _MIB)
    except NotThrottled as error:
        print(f"THE FILE STORE IS NOT THROTTLED: {error}")
    try:
        write_store(setting)
        yield setting
    finally:
        if setting.store is not None:
            setting.store.close()


def _not_of_the_program(directory: str, names: list[str]) -> set[str]:
    top = {".git", "models", "input", "output", "temp", "user"} if "main.py" in names else set()
    return {"__pycache__"} | top


def write_store(setting: Setting) -> None:
    """Tiny weights under the catalogue's file names, without holes, and what the worker knows of them."""
    files = read_manifest(PROJECT / "models.json").models[MODEL]
    if setting.real:
        description = CATALOGUE / MODEL / "model.json"
        command = [setting.python.absolute(), PROJECT / "comfyui_real/tiny_weights.py", setting.volume, description]
        subprocess.run(command, cwd=setting.checkout, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        for file in files:
            path = setting.volume / file.path
            content = path.read_bytes()  # holes come as zeros, and are written as such
            path.unlink()
            path.write_bytes(content)
    else:
        for file in files:
            path = setting.volume / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (80 * _MIB, 80 * _MIB)
            path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(80 * _MIB))
    locked = {
        file.path: Locked(
            sha256=sha256_of(setting.volume / file.path),
            size_bytes=(setting.volume / file.path).stat().st_size,
            learned_from="download",
        )
        for file in files
    }
    plain = tuple(msgspec.structs.replace(file, sha256=None) for file in files)
    (setting.root / "models.json").write_bytes(msgspec.json.encode(Manifest(models={MODEL: plain})))
    (setting.root / "lock.json").write_bytes(msgspec.json.encode(Lock(files=locked)))


async def ours(setting: Setting, **more: str) -> Round:
    """Our worker, as its image starts it."""
    local = setting.root / "local"
    shutil.rmtree(local, ignore_errors=True)
    arguments = "--cpu" if setting.real else "--standin-boot-seconds 2"
    environment = {
        "RENDERER": "comfyui",
        "COMFYUI_DIRECTORY": str(setting.checkout),
        "COMFYUI_PYTHON": str(setting.python.absolute()),
        "COMFYUI_ARGUMENTS": arguments,
        "MODELS_DIRECTORY": str(setting.volume),
        "LOCAL_MODELS_DIRECTORY": str(local),
        "MODELS_MANIFEST": str(setting.root / "models.json"),
        "MODELS_LOCK": str(setting.root / "lock.json"),
    }
    round_ = await measured(setting, [sys.executable, "-m", "gpu_endpoint"], environment | more)
    at = round_.at
    at["ComfyUI spawned"] = at["comfyui_ready"] - at.pop("comfyui_ready seconds")
    at["first job can run"] = at["first job taken"]
    return round_


async def ours_pinned(setting: Setting) -> Round:
    """The same, with the model copied and warmed up before the first job."""
    return await ours(setting, PINNED_MODELS=MODEL)


async def stock(setting: Setting) -> Round:
    """The stock sequence, in a container that has just started: its ComfyUI was never compiled."""
    checkout = setting.root / "stock"
    for compiled in (setting.root / "stock").rglob("__pycache__"):
        shutil.rmtree(compiled)
    work = setting.root / "stock-work"
    shutil.rmtree(work, ignore_errors=True)
    for name in ("input", "output", "user"):
        (work / name).mkdir(parents=True)
    paths = setting.root / "stock.yaml"
    folders = "".join(f"  {folder}: {folder}\n" for folder in ("diffusion_models", "loras", "text_encoders", "vae"))
    paths.write_text(f"stock:\n  base_path: {setting.volume}\n{folders}")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = ["--port", str(port), "--extra-model-paths-config", str(paths)]
    for name in ("input", "output", "user"):
        arguments += [f"--{name}-directory", str(work / name)]
    arguments += ["--temp-directory", str(work), "--database-url", "sqlite:///:memory:", "--cpu"]
    environment = {
        "COMFYUI_PYTHON": str(setting.python.absolute()),
        "COMFYUI_DIRECTORY": str(checkout),
        "COMFYUI_ARGUMENTS": shlex.join(arguments),
        "COMFYUI_URL": f"http://127.0.0.1:{port}",
        "HANDLER_PYTHON": sys.executable,
        "HANDLER": str(HERE / "stock_handler.py"),
    }
    round_ = await measured(setting, ["sh", str(HERE / "stock_start.sh")], environment)
    round_.at["first job can run"] = max(round_.at["first job taken"], round_.at["comfyui_answers"])
    return round_


async def measured(setting: Setting, command: list[str], environment: dict[str, str]) -> Round:
    """Start it, give it one job, and end it when the job is answered."""
    queue = RunPodQueue(setting.job_input | {"attempt_id": str(uuid.uuid4())})
    runner = await queue.start()
    output = {"object_key": "k/output.mp4", "put_url": f"{queue.url}/put", "content_type": "video/mp4"}
    queue.job_input["output"] = output | {"max_size_bytes": 2**28}
    if setting.store is not None:
        setting.store.forget()
    base = {"PATH": os.environ["PATH"], "HOME": str(setting.root), "TMPDIR": str(setting.root), "OMP_NUM_THREADS": "1"}
    log = setting.root / "log"
    began = time.time()
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=PROJECT,
            env=base | queue.environment() | environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=setting.store.join() if setting.store is not None else None,
        )
    try:
        cpu = await until_done(queue, process, log, whole=setting.whole)
    finally:
        family = [process.pid, *children(process.pid)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()
        await gone(family)
        await runner.cleanup()
    if "error" in queue.result or queue.taken_at is None or (setting.whole and queue.done_at is None):
        raise RuntimeError(f"{queue.result}\n{told(log)}")
    moments = events(log) | {"first job taken": queue.taken_at}
    if queue.done_at is not None:
        moments["first job done"] = queue.done_at
    seconds = {f"{name} seconds": value for name, value in facts(log).items()}
    return Round({name: round(at - began, 2) for name, at in moments.items()} | seconds, cpu)


async def until_done(queue: RunPodQueue, process: asyncio.subprocess.Process, log: Path, *, whole: bool) -> float:
    """Wait for the job's end, or until it can run. Returns the CPU seconds that were used by then."""
    cpu = 0.0
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not queue.done.is_set():
        if process.returncode is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no job was done\n{told(log)}")
        can_run = queue.taken_at is not None and {"comfyui_ready", "comfyui_answers"} & events(log).keys()
        if not cpu and can_run:
            cpu = sum(map(cpu_seconds, [process.pid, *children(process.pid)]))
            if not whole:
                return cpu
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(queue.done.wait(), timeout=0.1)
    return cpu


def told(log: Path) -> str:
    """The end of what was said, without the SDK's chatter."""
    return "\n".join([line for line in log.read_text(errors="replace").splitlines() if '"DEBUG"' not in line][-60:])


def events(log: Path) -> dict[str, float]:
    """When each log event was first told, in seconds of the wall clock."""
    found: dict[str, float] = {}
    for line in lines(log):
        at = line.get("at") or datetime.fromisoformat(line["time"]).timestamp()
        found.setdefault(line["message"], at)
    return found


def facts(log: Path) -> dict[str, float]:
    """How long some events say that they took."""
    return {line["message"]: line["seconds"] for line in lines(log) if line["message"] in ("comfyui_ready",)}


def lines(log: Path) -> Iterator[dict[str, Any]]:
    """The log's lines that are events."""
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{") and '"message"' in line:
            found = json.loads(line)
            if "time" in found or "at" in found:
                yield found


def children(pid: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := stat_of(int(entry.name))):
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Of a process, and of its children that have ended."""
    stat = stat_of(pid)
    return sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK") if stat else 0.0


def stat_of(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


async def gone(pids: list[int]) -> None:
    """Wait for their ends."""
    deadline = time.monotonic() + 30
    while any((stat := stat_of(pid)) and stat[0] != "Z" for pid in pids):
        if time.monotonic() > deadline:
            raise RuntimeError("a process does not end")
        await asyncio.sleep(0.05)


def report(setting: Setting, rounds: dict[str, list[Round]]) -> int:
    """The table, and whether it is fast enough."""
    names = {
        "torch_tried": "torch tried in a process of its own",
        "ComfyUI spawned": "interpreter, imports; ComfyUI spawned",
        "models_checked": "models checked",
        "sdk_imported": "SDK imported",
        "comfyui_ready": "ComfyUI answers",
        "comfyui_answers": "ComfyUI answers the waiting job",
        "hydration_finished": "models copied",
        "model_warmed_up": "model warmed up",
        "first job taken": "first job taken",
        "first job can run": "**first job can run**",
        "first job done": "first job done",
    }
    speed = f"{setting.mib_per_second} MiB/s" if setting.store is not None else "what the disk gives"
    size = sum(path.stat().st_size for path in setting.volume.rglob("*") if path.is_file()) // _MIB
    print(
        f"\nSeconds since the process was started; medians of {len(rounds['ours'])} rounds on {os.cpu_count()} cores."
    )
    print(f"The store gives {speed}; the model has {size} MiB.\n")
    print(f"| | {' | '.join(rounds)} |\n|---|{'---|' * len(rounds)}")
    for name, title in names.items():
        cells = [middle(kind, name) for kind in rounds.values()]
        print(f"| {title} | {' | '.join('' if cell is None else f'{cell:.1f}' for cell in cells)} |")
    print(f"| CPU seconds when it can run | {' | '.join(f'{cpu(kind):.1f}' for kind in rounds.values())} |")
    if not setting.real:
        print("\nNOT COMPARED: the stand-in has no torch and nothing to import. Give COMFYUI=<checkout>.")
        return 0
    for kind in [kind for kind in rounds if kind != "stock"]:
        for name in ["first job can run"] + ["first job done"] * setting.whole:
            print(f"\n{kind}: {name}: {ratio(rounds, kind, name):.2f} of the stock start", end="")
    print(f"\nours: CPU seconds until then: {cpu(rounds['ours']) / cpu(rounds['stock']):.2f} of the stock start")
    fast = ratio(rounds, "ours", "first job can run") <= MOST
    print(f"{'fast enough' if fast else 'TOO SLOW'}: at most {MOST} is wanted until the first job can run")
    return 0 if fast else 1


def middle(rounds: list[Round], name: str) -> float | None:
    """The median of a moment, if it came in every round."""
    values = [round_.at[name] for round_ in rounds if name in round_.at]
    return statistics.median(values) if len(values) == len(rounds) else None


def cpu(rounds: list[Round]) -> float:
    """The median."""
    return statistics.median(round_.cpu for round_ in rounds)


def ratio(rounds: dict[str, list[Round]], kind: str, name: str) -> float:
    """Of medians."""
    own, other = middle(rounds[kind], name), middle(rounds["stock"], name)
    assert own is not None
    assert other is not None
    return own / other


if __name__ == "__main__":
    sys.exit(main())
