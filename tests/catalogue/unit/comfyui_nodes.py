"""The nodes of ComfyUI that our workflows use: what each takes and gives, as ``/object_info`` of a server says it.

``"*"`` marks an input that may be left out. Values that are not links are typed as Python sees them.
"""

from typing import Any, Final, NamedTuple


class Node(NamedTuple):
    """Inputs by name and type, and the types of the outputs in order."""

    takes: dict[str, Any]
    gives: tuple[str, ...] = ()


_EMPTY_CLIP: Final = Node({"width": int, "height": int, "length": int, "batch_size": int}, ("LATENT",))
_SAMPLING: Final = {
    "model": "MODEL",
    "positive": "CONDITIONING",
    "negative": "CONDITIONING",
    "latent_image": "LATENT",
    "cfg": float,
}
_K_SAMPLING: Final = _SAMPLING | {"steps": int, "sampler_name": str, "scheduler": str}

NODES: Final[dict[str, Node]] = {
    "CheckpointLoaderSimple": Node({"ckpt_name": str}, ("MODEL", "CLIP", "VAE")),
    "UNETLoader": Node({"unet_name": str, "weight_dtype": str}, ("MODEL",)),
    "CLIPLoader": Node({"clip_name": str, "type": str, "*device": str}, ("CLIP",)),
    "DualCLIPLoader": Node({"clip_name1": str, "clip_name2": str, "type": str, "*device": str}, ("CLIP",)),
    "VAELoader": Node({"vae_name": str}, ("VAE",)),
    "LoadImage": Node({"image": str}, ("IMAGE", "MASK")),
    "ModelSamplingSD3": Node({"model": "MODEL", "shift": float}, ("MODEL",)),
    "CLIPTextEncode": Node({"clip": "CLIP", "text": str}, ("CONDITIONING",)),
    "ConditioningZeroOut": Node({"conditioning": "CONDITIONING"}, ("CONDITIONING",)),
    "EmptyHunyuanLatentVideo": _EMPTY_CLIP,
    "EmptyLTXVLatentVideo": _EMPTY_CLIP,
    "EmptySD3LatentImage": Node({"width": int, "height": int, "batch_size": int}, ("LATENT",)),
    "WanImageToVideo": Node(
        {
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "vae": "VAE",
            "width": int,
            "height": int,
            "length": int,
            "batch_size": int,
            "*start_image": "IMAGE",
            "*clip_vision_output": "CLIP_VISION_OUTPUT",
        },
        ("CONDITIONING", "CONDITIONING", "LATENT"),
    ),
    "LTXVConditioning": Node(
        {"positive": "CONDITIONING", "negative": "CONDITIONING", "frame_rate": float}, ("CONDITIONING", "CONDITIONING")
    ),
    "LTXVScheduler": Node(
        {
            "steps": int,
            "max_shift": float,
            "base_shift": float,
            "stretch": bool,
            "terminal": float,
            "*latent": "LATENT",
        },
        ("SIGMAS",),
    ),
    "KSamplerSelect": Node({"sampler_name": str}, ("SAMPLER",)),
    "SamplerCustom": Node(
        _SAMPLING | {"add_noise": bool, "noise_seed": int, "sampler": "SAMPLER", "sigmas": "SIGMAS"},
        ("LATENT", "LATENT"),
    ),
    "KSampler": Node(_K_SAMPLING | {"seed": int, "denoise": float}, ("LATENT",)),
    "KSamplerAdvanced": Node(
        _K_SAMPLING
        | {
            "add_noise": str,
            "noise_seed": int,
            "start_at_step": int,
            "end_at_step": int,
            "return_with_leftover_noise": str,
        },
        ("LATENT",),
    ),
    "VAEDecode": Node({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "CreateVideo": Node({"images": "IMAGE", "fps": float, "*audio": "AUDIO"}, ("VIDEO",)),
    "SaveVideo": Node({"video": "VIDEO", "filename_prefix": str, "format": str, "codec": str}),
    "SaveImage": Node({"images": "IMAGE", "filename_prefix": str}),
}
