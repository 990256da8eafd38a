"""Tiny random weights under the catalogue's own file names: a real sampler in seconds on a CPU, without downloads.

Run by the Python of a ComfyUI checkout, inside it: ``python tiny_weights.py MODELS_DIRECTORY WORKFLOW.json...``.
ComfyUI sizes a model from its file, so a small file of the right keys is a small model. Files that are there are kept.
"""

import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TEXT_WIDTH = 768
"""Of a CLIP-L encoder, which ComfyUI falls back to where a single one stands for another."""
FLUX_TEXT_WIDTH = 64
"""Of what ``tiny_encoders.py`` says to FLUX."""


def random_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Small random values in the shapes of a module that was built without memory."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(tensor.shape, generator=generator) * 0.02 + (1.0 if key.endswith("norm.weight") else 0.0)
        for key, tensor in module.state_dict().items()
    }


def write_wan(path: Path) -> None:
    """One expert of Wan 2.2: one head, two layers. Image to video is the same with 20 more input channels."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    model = WanModel(
        model_type="t2v",
        in_dim=36 if "_i2v_" in path.name else 16,
        dim=128,
        ffn_dim=256,
        text_dim=TEXT_WIDTH,
        out_dim=16,
        num_heads=1,
        num_layers=2,
        device="meta",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    save_file(random_weights(model), path, {"config": json.dumps({"transformer": {"text_dim": TEXT_WIDTH}})})


def write_wan_vae(path: Path) -> None:
    """The VAE of Wan 2.1 and 2.2 14B, four channels wide."""
    from comfy.ldm.wan.vae import WanVAE

    with torch.device("meta"):
        model = WanVAE(dim=4, z_dim=16)
    save_file(random_weights(model), path)


def write_flux(path: Path) -> None:
    """FLUX with one head and one block of either kind, without guidance, as schnell is."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    model = Flux(
        image_model="flux",
        in_channels=16,
        out_channels=16,
        vec_in_dim=TEXT_WIDTH,
        context_in_dim=FLUX_TEXT_WIDTH,
        hidden_size=128,
        mlp_ratio=4.0,
        num_heads=1,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=False,
        txt_ids_dims=[],
        device="meta",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    save_file(random_weights(model), path)


def write_tiny_autoencoder(path: Path) -> None:
    """A tiny autoencoder with as many latent channels as FLUX's."""
    from comfy.taesd.taesd import TAESD

    with torch.device("meta"):
        model = TAESD(latent_channels=16)
    save_file(random_weights(model), path)


def write_ltx(path: Path) -> None:
    """LTX-Video and its VAE in one checkpoint, both sized by what the file says of itself."""
    import comfy.ops
    from comfy.ldm.lightricks.model import LTXVModel
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    transformer = {
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "cross_attention_dim": 64,
        "caption_channels": TEXT_WIDTH,
        "num_layers": 2,
    }
    blocks = [["compress_all", {}], ["compress_all", {}], ["compress_all", {}], ["res_x", {"num_layers": 1}]]
    vae = {
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 128,
        "encoder_blocks": blocks,
        "decoder_blocks": blocks,
        "encoder_base_channels": 8,
        "decoder_base_channels": 8,
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "latent_log_var": "uniform",
        "causal_decoder": False,
        "timestep_conditioning": False,
    }
    model = LTXVModel(**transformer, device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    with torch.device("meta"):
        coder = VideoVAE(config=vae)
    weights = {f"model.diffusion_model.{key}": tensor for key, tensor in random_weights(model).items()}
    weights |= {f"vae.{key}": tensor for key, tensor in random_weights(coder).items()}
    save_file(weights, path, {"config": json.dumps({"transformer": transformer, "vae": vae})})


def write_nothing(path: Path) -> None:
    """A file whose name is asked for and whose content is not: ``tiny_encoders.py`` stands in for its loader."""
    path.touch()


def write_clip_l(path: Path) -> None:
    """A CLIP-L text encoder, written sparsely: norms of one, random positions, holes that read as zero elsewhere."""
    generator = torch.Generator().manual_seed(1)
    filled: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {"text_model.embeddings.token_embedding.weight": (49408, TEXT_WIDTH)}
    position = "text_model.embeddings.position_embedding.weight"
    filled[position] = torch.randn(77, TEXT_WIDTH, generator=generator) * 0.02
    shapes[position] = (77, TEXT_WIDTH)
    norms = ["text_model.final_layer_norm"]
    for layer in range(12):
        prefix = f"text_model.encoder.layers.{layer}"
        norms += [f"{prefix}.layer_norm1", f"{prefix}.layer_norm2"]
        linear = {f"self_attn.{name}_proj": (TEXT_WIDTH, TEXT_WIDTH) for name in ("q", "k", "v", "out")}
        linear |= {"mlp.fc1": (4 * TEXT_WIDTH, TEXT_WIDTH), "mlp.fc2": (TEXT_WIDTH, 4 * TEXT_WIDTH)}
        for name, shape in linear.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            shapes[f"{prefix}.{name}.bias"] = shape[:1]
    for name in norms:
        filled[f"{name}.weight"] = torch.ones(TEXT_WIDTH)
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (TEXT_WIDTH,)
    _write_sparse(path, shapes, filled)


def _write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]], filled: Mapping[str, torch.Tensor]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + 4 * int(torch.Size(shape).numel())
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
        for key, tensor in filled.items():
            file.seek(8 + len(encoded) + header[key]["data_offsets"][0])
            file.write(tensor.numpy().tobytes())


def write_empty_lora(path: Path) -> None:
    """A LoRA that changes no weight: a safetensors file without tensors."""
    header = b"{}"
    path.write_bytes(len(header).to_bytes(8, "little") + header)


LOADERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "UNETLoader": ("diffusion_models", ("unet_name",)),
    "VAELoader": ("vae", ("vae_name",)),
    "CLIPLoader": ("text_encoders", ("clip_name",)),
    "DualCLIPLoader": ("text_encoders", ("clip_name1", "clip_name2")),
    "CheckpointLoaderSimple": ("checkpoints", ("ckpt_name",)),
    "LoraLoaderModelOnly": ("loras", ("lora_name",)),
}
"""Where a loader node looks for its file, and which inputs name one."""

WRITERS: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("diffusion_models/wan2.2_", write_wan),
    ("loras/wan2.2_", write_empty_lora),
    ("vae/wan_2.1_vae", write_wan_vae),
    ("text_encoders/umt5_xxl", write_clip_l),
    ("diffusion_models/flux1-schnell", write_flux),
    ("vae/ae.", write_tiny_autoencoder),
    ("checkpoints/ltx-video-2b", write_ltx),
    ("text_encoders/t5xxl", write_nothing),
    ("text_encoders/clip_l", write_nothing),
)
"""By the beginning of folder and file name."""


def named_files(workflow: Mapping[str, Any]) -> Iterator[str]:
    """``folder/file`` of each model file that a workflow names. Raises KeyError for a loader that is not known here."""
    for node in workflow.values():
        if "Loader" in node["class_type"]:
            folder, inputs = LOADERS[node["class_type"]]
            yield from (f"{folder}/{node['inputs'][name]}" for name in inputs)


def write_weights(models: Path, workflows: list[Path]) -> None:
    """Write what the workflows name into ``models``."""
    for workflow in workflows:
        for name in named_files(json.loads(workflow.read_text())):
            path = models / name
            if path.exists():
                continue
            [writer] = [writer for beginning, writer in WRITERS if name.startswith(beginning)]
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            writer(unfinished)
            unfinished.rename(path)


if __name__ == "__main__":
    directory, *workflow_files = map(Path, sys.argv[1:])
    # The checkout's own modules, as its main.py finds them, and its command line, which it reads when imported.
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    write_weights(directory, workflow_files)
