"""Writing frames as H.264 in MP4, and a picture as PNG. Both say in their metadata what they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import av
import numpy as np
from PIL.PngImagePlugin import PngInfo

from gpu_endpoint.renderers.preview.parameters import PreviewParameters
from gpu_endpoint.renderers.preview.scene import Scene

_X264_OPTIONS: Final = {"preset": "veryfast", "crf": "23"}


def write_clip(path: Path, scene: Scene, parameters: PreviewParameters, comment: str) -> Iterator[int]:
    """Encode the scene frame by frame, yielding how many are done after each (and 0 before the first).

    The caller may stop between frames; the file is then incomplete and closed. It is complete when the iterator ends.
    """
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=parameters.frame_rate, options=dict(_X264_OPTIONS))
        stream.width = scene.width
        stream.height = scene.height
        stream.pix_fmt = "yuv420p"
        yield 0
        for number in range(parameters.frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(scene.frame(number)), format="rgb24")
            frame.pts = number
            frame.time_base = 1 / parameters.frame_rate
            container.mux(stream.encode(frame))
            yield number + 1
        container.mux(stream.encode())


def write_picture(path: Path, scene: Scene, comment: str) -> None:
    """Write the scene's first frame."""
    chunks = PngInfo()
    chunks.add_text("Comment", comment)
    chunks.add_text("Software", "Reelhouse preview renderer")
    scene.frame(0).save(path, format="PNG", pnginfo=chunks, compress_level=4)
