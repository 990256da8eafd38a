"""What the mark that AI made a file costs: beside decoding the same file, and in memory for a file of 1 GiB.

    python -m benchmarks.marking [--files 30]

Files go through a decoder process as in storage, which decodes each, or marks it and decodes the marked one. The
difference is what marking costs, with the signature of a local key and the checksum of the marked file. The clip is
832x480 with 81 frames, the picture 1024x1024, both about as large as models make them.
"""

import argparse
import asyncio
import hashlib
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import av
import psutil
from PIL import Image, ImageFilter

from contracts.values import Kind
from local_platform.console import say, table
from local_platform.marking_credentials import make_marking_credentials
from storage.decoders import Decoders
from storage.domain import MAX_OUTPUT_PIXELS
from storage.signing import local_signer

AIM_MS: Final = 50.0
AIM_MEMORY_MB: Final = 100.0
"""More than a small file takes."""
LARGE_BYTES: Final = 1024**3


def scene(width: int, height: int, seed: int) -> Image.Image:
    """Soft shapes with some grain: as hard to compress as what models make."""
    noise = Image.frombytes(
        "RGB", (width // 32, height // 32), random.Random(seed).randbytes(width * height * 3 // 1024)
    )
    soft = noise.resize((width, height), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((width, height), 12).convert("RGB").filter(ImageFilter.BoxBlur(1))
    return Image.blend(soft, grain, 0.15)


def make_clip(path: Path) -> None:
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as output:
        stream = output.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 832, 480, "yuv420p"
        first, last = scene(832, 480, 1), scene(832, 480, 2)
        for number in range(81):
            frame = av.VideoFrame(832, 480, "rgb24")
            frame.planes[0].update(Image.blend(first, last, number / 80).tobytes())
            frame.pts = number
            output.mux(stream.encode(frame.reformat(format="yuv420p")))
        output.mux(stream.encode(None))


def make_large(path: Path, clip: Path) -> None:
    """The clip with as many bytes behind its frames as make it 1 GiB: a file with a hole on the disk."""
    body = clip.read_bytes()
    at = body.rindex(b"mdat") - 4
    assert at + int.from_bytes(body[at : at + 4]) == len(body), "the frames come last"
    with path.open("wb") as file:
        file.write(body[:at] + (LARGE_BYTES - at).to_bytes(4) + body[at + 4 :])
        file.truncate(LARGE_BYTES)


async def median_ms(count: int, call: Callable[[], Awaitable[object]]) -> float:
    await call()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


class MarkingBenchmark:
    """A decoder process, and the files that it gets."""

    def __init__(self, decoders: Decoders, directory: Path) -> None:
        self._decoders = decoders
        self._directory = directory

    async def mark(self, path: Path, kind: Kind) -> tuple[int, str]:
        """As storage does; the size and the checksum of the marked file."""
        source, marked = self._directory / "source", self._directory / "marked"
        await asyncio.to_thread(shutil.copyfile, path, source)
        await self._decoders.mark(source, marked, kind, MAX_OUTPUT_PIXELS)
        return await asyncio.to_thread(_checksum, marked)

    async def row(self, name: str, path: Path, kind: Kind, files: int) -> tuple[tuple[str, ...], float]:
        decode = await median_ms(files, lambda: self._decoders.inspect(path, kind, MAX_OUTPUT_PIXELS))
        both = await median_ms(files, lambda: self.mark(path, kind))
        (size, _), (marked, _) = _checksum(path), await self.mark(path, kind)
        cost = both - decode
        cells = (name, f"{size / 1e6:.2f} MB", f"+{marked - size} B", f"{decode:.1f}", f"{both:.1f}", f"{cost:.1f}")
        return (*cells, f"{both / decode:.2f}"), cost

    async def large(self, path: Path) -> tuple[float, float, float]:
        """Seconds to mark a file of 1 GiB, and the peak of the process in MB before and after."""
        before, began = self._peak_mb(), time.perf_counter()
        await self._decoders.mark(path, self._directory / "marked", "video", MAX_OUTPUT_PIXELS)
        return time.perf_counter() - began, before, self._peak_mb()

    def _peak_mb(self) -> float:
        (process,) = psutil.Process().children()
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1000


def _checksum(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


async def run(files: int) -> bool:
    """Print the tables. Whether every aim is met."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        clip, picture, large = (directory / one for one in ("clip.mp4", "picture.png", "large.mp4"))
        make_clip(clip)
        scene(1024, 1024, 3).save(picture)
        make_large(large, clip)
        credentials = make_marking_credentials()
        decoders = Decoders(1, signer=local_signer(credentials.key, credentials.certificates))
        try:
            await decoders.start()
            benchmark = MarkingBenchmark(decoders, directory)
            rows = [
                await benchmark.row("clip, 832x480, 81 frames", clip, "video", files),
                await benchmark.row("picture, 1024x1024", picture, "image", files),
            ]
            seconds, before, after = await benchmark.large(large)
        finally:
            await decoders.stop()
    say(
        table(
            ("file", "size", "mark", "decode ms", "with the mark ms", "cost ms", "ratio"), [cells for cells, _ in rows]
        )
    )
    say(f"aim: at most {AIM_MS:.0f} ms a file")
    say(f"a clip of 1 GiB: {seconds:.1f} s, peak of the process {before:.0f} MB before and {after:.0f} MB after it")
    say(f"aim: at most {AIM_MEMORY_MB:.0f} MB more than a small file")
    return all(cost <= AIM_MS for _, cost in rows) and after - before <= AIM_MEMORY_MB


def main() -> int:
    """Exit code 1 if marking costs more than it may."""
    parser = argparse.ArgumentParser(description="The cost of the mark that AI made a file.")
    parser.add_argument("--files", type=int, default=30)
    return 0 if asyncio.run(run(parser.parse_args().files)) else 1


if __name__ == "__main__":
    sys.exit(main())
