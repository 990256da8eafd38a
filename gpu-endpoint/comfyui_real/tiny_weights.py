"""Tiny random weights under the catalogue's own file names: a real sampler in seconds on a CPU, without downloads.

Run by the Python of a ComfyUI checkout, inside it: ``python tiny_weights.py MODELS_DIRECTORY model.json...``, with the
catalogue's ``model.json``. ComfyUI sizes a model from its file, so a small file of the right keys is a small model.
Files that are there are kept.
"""

import json
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TEXT_WIDTH = 768
"""Of a CLIP-L encoder, which ComfyUI falls back to where a single one stands for another, and of what ``tiny_node.py``
says to LTX."""
SMALL_TEXT_WIDTH = 64
"""Of what ``tiny_node.py`` says to FLUX and Z-Image."""


AROUND_ONE = ("norm.weight", "std-of-means")
"""Ends of the keys whose values multiply or divide: near zero they would make every number vanish or overflow."""


def random_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Small random values in the shapes of a module that was built without memory."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(tensor.shape, generator=generator) * 0.02 + (1.0 if key.endswith(AROUND_ONE) else 0.0)
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
        context_in_dim=SMALL_TEXT_WIDTH,
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


LTX_BLOCKS = [["compress_all", {}], ["compress_all", {}], ["compress_all", {}], ["res_x", {"num_layers": 1}]]
LTX_VIDEO_VAE = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "encoder_blocks": LTX_BLOCKS,
    "decoder_blocks": LTX_BLOCKS,
    "encoder_base_channels": 8,
    "decoder_base_channels": 8,
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "causal_decoder": False,
    "timestep_conditioning": False,
}


def ltx_video_vae() -> dict[str, torch.Tensor]:
    """The weights of that."""
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    with torch.device("meta"):
        coder = VideoVAE(config=LTX_VIDEO_VAE)
    return random_weights(coder)


def write_ltx(path: Path) -> None:
    """LTX-Video and its VAE in one checkpoint, both sized by what the file says of itself."""
    import comfy.ops
    from comfy.ldm.lightricks.model import LTXVModel

    transformer = {
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "cross_attention_dim": 64,
        "caption_channels": TEXT_WIDTH,
        "num_layers": 2,
    }
    model = LTXVModel(**transformer, device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    weights = {f"model.diffusion_model.{key}": tensor for key, tensor in random_weights(model).items()}
    weights |= {f"vae.{key}": tensor for key, tensor in ltx_video_vae().items()}
    save_file(weights, path, {"config": json.dumps({"transformer": transformer, "vae": LTX_VIDEO_VAE})})


def write_ltx_with_sound(path: Path) -> None:
    """LTX 2.5: pictures and sound in one transformer, either half of the text for one of them."""
    import comfy.ops
    from comfy.ldm.lightricks.av_model import LTXAVModel

    transformer = {
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "cross_attention_dim": 64,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 32,
        "audio_cross_attention_dim": 64,
        "caption_channels": TEXT_WIDTH // 2,
        "num_layers": 2,
        "connector_attention_head_dim": 32,
        "connector_num_attention_heads": 2,
        "connector_num_layers": 1,
    }
    model = LTXAVModel(**transformer, device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    save_file(random_weights(model), path, {"config": json.dumps({"transformer": transformer})})


def write_ltx_video_vae(path: Path) -> None:
    """Its VAE for pictures, in a file of its own."""
    save_file(ltx_video_vae(), path, {"config": json.dumps({"vae": LTX_VIDEO_VAE})})


def write_ltx_audio_vae(path: Path) -> None:
    """Its VAE for sound, stereo at 16 kHz, with its vocoder."""
    from comfy.ldm.lightricks.vae.audio_vae import AudioVAE

    coder = {
        "double_z": True,
        "mel_bins": 64,
        "z_channels": 8,
        "resolution": 256,
        "in_channels": 2,
        "out_ch": 2,
        "ch": 8,
        "ch_mult": [1, 2, 4],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "mid_block_add_attention": False,
        "norm_type": "pixel",
        "causality_axis": "height",
    }
    config = {
        "audio_vae": {
            "model": {"params": {"ddconfig": coder, "sampling_rate": 16000}},
            "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}},
        },
        "vocoder": {"upsample_initial_channel": 32},
    }
    metadata = {"config": json.dumps(config)}
    with torch.device("meta"):
        model = AudioVAE(metadata=metadata)
    weights = random_weights(model)
    save_file({key.replace("autoencoder.", "audio_vae.", 1): value for key, value in weights.items()}, path, metadata)


def write_latent_upscaler(path: Path) -> None:
    """What enlarges LTX's latents to twice their sides."""
    import comfy.ops
    from comfy.ldm.lightricks.latent_upsampler import LatentUpsampler

    config = {"in_channels": 128, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3}
    with torch.device("meta"):
        model = LatentUpsampler.from_config(config, operations=comfy.ops.disable_weight_init)
    save_file(random_weights(model), path, {"config": json.dumps(config)})


def write_z_image(path: Path) -> None:
    """Z-Image with eight heads and two layers. ComfyUI knows it by its width of 3840; ``tiny_node.py`` by this file."""
    import comfy.ops
    from comfy.ldm.lumina.model import NextDiT

    config = {
        "image_model": "lumina2",
        "patch_size": 2,
        "in_channels": 16,
        "dim": 256,
        "cap_feat_dim": SMALL_TEXT_WIDTH,
        "n_layers": 2,
        "n_heads": 8,
        "n_kv_heads": 8,
        "qk_norm": True,
        "axes_dims": [8, 12, 12],
        "axes_lens": [1536, 512, 512],
        "rope_theta": 256.0,
        "ffn_dim_multiplier": 8.0 / 3.0,
        "z_image_modulation": True,
        "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    }
    model = NextDiT(**config, device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    save_file(random_weights(model), path, {"tiny_z_image": json.dumps(config)})


def write_film(path: Path) -> None:
    """FILM, in its one size of 34 million parameters: its loader knows no other."""
    from comfy_extras.frame_interpolation_models.film_net import FILMNet

    with torch.device("meta"):
        model = FILMNet()
    save_file({key: tensor.half() for key, tensor in random_weights(model).items()}, path)


def write_nothing(path: Path) -> None:
    """A file whose name is asked for and whose content is not: ``tiny_node.py`` stands in for its loader."""
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


WRITERS: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("diffusion_models/wan2.2_", write_wan),
    ("loras/wan2.2_", write_empty_lora),
    ("vae/wan_2.1_vae", write_wan_vae),
    ("text_encoders/umt5_xxl", write_clip_l),
    ("diffusion_models/flux1-schnell", write_flux),
    ("vae/ae.", write_tiny_autoencoder),
    ("checkpoints/ltx-video-2b", write_ltx),
    ("diffusion_models/ltx-2.5", write_ltx_with_sound),
    ("vae/ltx-2.5-video", write_ltx_video_vae),
    ("vae/ltx-2.5-audio", write_ltx_audio_vae),
    ("latent_upscale_models/ltx-2.5", write_latent_upscaler),
    ("text_encoders/gemma4", write_nothing),
    ("diffusion_models/z_image_turbo", write_z_image),
    ("text_encoders/qwen_3_4b", write_nothing),
    ("frame_interpolation/film_net", write_film),
    ("text_encoders/t5xxl", write_nothing),
    ("text_encoders/clip_l", write_nothing),
)
"""By the beginning of folder and file name."""


def write_weights(models: Path, descriptions: list[Path]) -> None:
    """Write what the catalogue's models need into ``models``. Raises ValueError for a file that has no recipe here."""
    for description in descriptions:
        for file in json.loads(description.read_text())["files"]:
            name = f"{file['folder']}/{file['name']}"
            path = models / name
            if path.exists():
                continue
            writers = [writer for beginning, writer in WRITERS if name.startswith(beginning)]
            if len(writers) != 1:
                raise ValueError(f"{description.parent.name}: {len(writers)} recipes for tiny weights of {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            writers[0](unfinished)
            unfinished.rename(path)


if __name__ == "__main__":
    directory, *model_files = map(Path, sys.argv[1:])
    # The checkout's own modules, as its main.py finds them, and its command line, which it reads when imported.
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    write_weights(directory, model_files)
