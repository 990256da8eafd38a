"""What previews cost: processor time of the process that makes and marks them, and the bytes of each.

    python -m benchmarks.previews [--files 30]

Processor time, because the process has a low priority: how long it takes is a matter of what else is going on.
The clip is 832x480 with 81 frames, the picture 1024x1024, both about as large as models make them.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

import psutil

from benchmarks.marking import make_clip, scene
from contracts.values import Kind
from local_platform.console import say, table
from local_platform.marking_credentials import make_marking_credentials
from storage.decoders import Decoders
from storage.domain import MAX_OUTPUT_PIXELS
from storage.signing import local_signer

AIM_MS: Final = 200.0
AIM_BYTES: Final = 400_000


async def row(decoders: Decoders, name: str, path: Path, kind: Kind, files: int) -> tuple[tuple[str, ...], bool]:
    """The cells, and whether the aims are met."""
    previews = await decoders.render_previews(path, kind, MAX_OUTPUT_PIXELS)
    (process,) = psutil.Process().children()
    before = process.cpu_times()
    for _ in range(files):
        await decoders.render_previews(path, kind, MAX_OUTPUT_PIXELS)
    after = process.cpu_times()
    cost = 1000 * (after.user - before.user + after.system - before.system) / files
    total = sum(len(one.body) for one in previews)
    sizes = ", ".join(f"{one.role} {one.width_pixels}: {len(one.body) / 1000:.0f} kB" for one in previews)
    return (name, f"{cost:.0f}", f"{total / 1000:.0f}", sizes), cost <= AIM_MS and total <= AIM_BYTES


async def run(files: int) -> bool:
    """Print the table. Whether every aim is met."""
    with tempfile.TemporaryDirectory() as name:
        clip, picture = Path(name, "clip.mp4"), Path(name, "picture.png")
        make_clip(clip)
        scene(1024, 1024, 3).save(picture)
        credentials = make_marking_credentials()
        signer = local_signer(credentials.key, credentials.certificates)
        decoders = Decoders(1, signer=signer, background=True)
        try:
            rows = [
                await row(decoders, "clip, 832x480, 81 frames", clip, "video", files),
                await row(decoders, "picture, 1024x1024", picture, "image", files),
            ]
        finally:
            await decoders.stop()
    say(table(("output", "processor ms", "all kB", "each, with its mark"), [cells for cells, _ in rows]))
    say(f"aims: {AIM_MS:.0f} ms of processor time and {AIM_BYTES / 1000:.0f} kB an output")
    return all(met for _, met in rows)


def main() -> int:
    """Exit code 1 if previews cost more than they may."""
    parser = argparse.ArgumentParser(description="The cost of previews.")
    parser.add_argument("--files", type=int, default=30)
    return 0 if asyncio.run(run(parser.parse_args().files)) else 1


if __name__ == "__main__":
    sys.exit(main())
