"""Wan 2.2 14B in its full size, with random weights: what a sampler costs depends on their number, not on their worth.

``python full_size.py MODELS_DIRECTORY [LAYERS]`` by the Python of a ComfyUI checkout, inside it, on its GPU. The files
are made like the published ones: the blocks' matrices in eight bits, each with a scale. Both experts are one file.
"""

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import torch

LAYERS = 40
TEXT_WIDTH = 768
"""Of the tiny text encoder that stands in for the large one."""
LARGEST = 100.0
"""The spread of the numbers in eight bits; the scales bring them to that of the others."""
SPREAD = 0.02
EXPERTS = ("wan2.2_t2v_high_noise_14B_fp8_scaled", "wan2.2_t2v_low_noise_14B_fp8_scaled")


def write_expert(path: Path, layers: int, device: str) -> None:
    """One expert, tensor by tensor: it would not fit twice into most machines' memory."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    model = WanModel(
        model_type="t2v",
        in_dim=16,
        dim=5120,
        ffn_dim=13824,
        text_dim=TEXT_WIDTH,
        out_dim=16,
        num_heads=40,
        num_layers=layers,
        device="meta",
        dtype=torch.bfloat16,
        operations=comfy.ops.disable_weight_init,
    )
    shapes: dict[str, tuple[torch.dtype, list[int]]] = {"scaled_fp8": (torch.float8_e4m3fn, [0])}
    for key, tensor in model.state_dict().items():
        small = key.startswith("blocks.") and key.endswith(".weight") and tensor.ndim == 2
        shapes[key] = (torch.float8_e4m3fn if small else torch.bfloat16, list(tensor.shape))
        if small:
            shapes[f"{key.removesuffix('weight')}scale_weight"] = (torch.float32, [])
    with path.open("wb") as file:
        file.write(_header(shapes))
        for key, (dtype, shape) in shapes.items():
            if dtype == torch.float32:
                values = torch.full(shape, SPREAD / LARGEST)
            else:
                spread = LARGEST if dtype == torch.float8_e4m3fn else SPREAD
                around = 1.0 if "norm" in key and key.endswith("weight") else 0.0
                values = (torch.randn(shape, device=device, dtype=torch.bfloat16) * spread + around).to(dtype)
            file.write(values.reshape(-1).view(torch.uint8).cpu().numpy().data)


def _header(shapes: dict[str, tuple[torch.dtype, list[int]]]) -> bytes:
    names = {torch.float8_e4m3fn: "F8_E4M3", torch.bfloat16: "BF16", torch.float32: "F32"}
    config = {"transformer": {"text_dim": TEXT_WIDTH}}
    header: dict[str, Any] = {"__metadata__": {"config": json.dumps(config)}}
    end = 0
    for key, (dtype, shape) in shapes.items():
        begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[key] = {"dtype": names[dtype], "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded


def write_vae(path: Path) -> None:
    """Its VAE."""
    from comfy.ldm.wan.vae import WanVAE
    from safetensors.torch import save_file

    with torch.device("meta"):
        model = WanVAE(dim=96, z_dim=16)
    save_file({key: torch.randn(tensor.shape) * SPREAD for key, tensor in model.state_dict().items()}, path)


if __name__ == "__main__":
    models, *layers = sys.argv[1:]
    # The checkout's own modules, as its main.py finds them, and its command line, which it reads when imported.
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    first, second = (Path(models, "diffusion_models", f"{name}.safetensors") for name in EXPERTS)
    for replaced in (first, second, Path(models, "vae/wan_2.1_vae.safetensors")):
        replaced.unlink(missing_ok=True)
    write_expert(first, int(layers[0]) if layers else LAYERS, "cuda" if torch.cuda.is_available() else "cpu")
    os.link(first, second)
    write_vae(Path(models, "vae/wan_2.1_vae.safetensors"))
