"""``extra_model_paths.yaml``: where ComfyUI looks for models, every folder of today included."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gpu_endpoint.provision.manifest import Manifest

_FOLDERS: Final = {
    "audio_encoders": ("audio_encoders",),
    "checkpoints": ("checkpoints",),
    "clip_vision": ("clip_vision",),
    "controlnet": ("controlnet",),
    "diffusion_models": ("diffusion_models", "unet"),
    "embeddings": ("embeddings",),
    "frame_interpolation": ("frame_interpolation",),
    "latent_upscale_models": ("latent_upscale_models",),
    "loras": ("loras",),
    "model_patches": ("model_patches",),
    "text_encoders": ("text_encoders", "clip"),
    "upscale_models": ("upscale_models",),
    "vae": ("vae",),
}
"""``unet`` and ``clip`` are the names that the stock worker uses."""


def model_paths_yaml(directories: Mapping[str, Path], manifest: Manifest) -> str:
    """The file's text, with the folders of the manifest, too. ComfyUI takes a file from the first that has it."""
    folders = _FOLDERS | {file.folder: (file.folder,) for file in manifest.files() if file.folder not in _FOLDERS}
    lines = []
    for name, directory in directories.items():
        lines += [f"{name}:", f"  base_path: {directory}"]
        for folder, places in sorted(folders.items()):
            lines += [f"  {folder}: |", *(f"    {place}" for place in places)]
    return "\n".join(lines) + "\n"
