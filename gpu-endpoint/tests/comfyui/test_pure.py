"""What needs no ComfyUI: scale, workflow, redaction, classification, previews, settings."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gpu_endpoint.failures import ExecutionFailed, InvalidInput, JobFailure, WorkerMisconfigured
from gpu_endpoint.redaction import LONGEST_DETAIL, Redactor
from gpu_endpoint.renderers.comfyui import ComfyUISettings
from gpu_endpoint.renderers.comfyui.classification import Trouble, execution_failure, trouble_of
from gpu_endpoint.renderers.comfyui.client import ExecutionError, Job
from gpu_endpoint.renderers.comfyui.messages import NodeState, read_message, read_preview
from gpu_endpoint.renderers.comfyui.outputs import named_files
from gpu_endpoint.renderers.comfyui.scale import ProgressScale
from gpu_endpoint.renderers.comfyui.workflow import node_named, prepared, prompt_id, tiled
from gpu_endpoint.renderers.previews import MAX_BYTES, UnusablePreview, small_jpeg
from tests.comfyui import graphs

ATTEMPT = "0192f0c1-5b7e-7cc0-8000-000000000000"


def test_every_output_node_has_a_name_of_its_own_in_the_attempts_folder() -> None:
    graph = graphs.quick() | {"8": graphs.picture()["2"]}
    ready = prepared(graph, ATTEMPT, ())
    assert ready["3"]["inputs"]["filename_prefix"] == f"{ATTEMPT}/node-3"
    assert ready["8"]["inputs"]["filename_prefix"] == f"{ATTEMPT}/node-8"
    assert graph["3"]["inputs"]["filename_prefix"] == "clip", "the job's own workflow stays as it is"


def test_choice_among_files_does_not_depend_on_the_order_of_history() -> None:
    def of(node_id: str, kind: str = "videos") -> dict[str, Any]:
        return {kind: [{"filename": f"{node_id}.mp4", "subfolder": "", "type": "output"}]}

    files = {node_id: of(node_id) for node_id in ("2", "10", "10:2", "9", "x")}
    for ran in (files, dict(reversed(files.items()))):
        found = named_files(Job(status="completed", outputs=ran), Path("/output"))
        assert [file.node_id for file in found] == ["2", "9", "10", "10:2", "x"]


def test_only_loading_nodes_read_from_the_attempts_folder() -> None:
    graph = graphs.loading("image.png") | {"7": graphs.node("CLIPTextEncode", text="image.png")}
    ready = prepared(graph, ATTEMPT, {"image.png"})
    assert ready["1"]["inputs"]["image"] == f"{ATTEMPT}/image.png"
    assert ready["7"]["inputs"]["text"] == "image.png"


def test_first_run_has_the_attempts_id_and_later_runs_have_others() -> None:
    ids = [prompt_id(ATTEMPT, run) for run in range(3)]
    assert ids[0] == ATTEMPT
    assert len(set(ids)) == 3
    assert prompt_id(ATTEMPT.upper(), 0) == ATTEMPT


def test_only_a_workflow_that_decodes_at_once_can_be_tiled() -> None:
    frugal = tiled(graphs.sampled())
    assert frugal is not None
    assert frugal["12"]["class_type"] == "VAEDecodeTiled"
    assert {"samples", "vae", "tile_size", "overlap", "temporal_size"} <= frugal["12"]["inputs"].keys()
    assert tiled(frugal) is None
    assert tiled(graphs.quick()) is None


@pytest.mark.parametrize("node_id", ["12", "12.0.3", "12:3"])
def test_node_is_called_by_its_title_and_an_inner_one_by_the_outer_ones(node_id: str) -> None:
    node = node_named(graphs.sampled(), node_id, "Inner")
    assert str(node) == f"Inner “Decode” (node {node_id})"


def test_scale_never_goes_back_over_runs_and_odd_messages() -> None:
    scale = ProgressScale(graphs.sampled(), 4)
    percents = [scale.cached(["1", "2", "no such node"]).percent]
    for state in ({"10": NodeState("running", 1, 2)}, {"10": NodeState("finished", 2, 2)}, {"x": NodeState("running")}):
        percents.append(scale.update(state).percent)
    for value in (0, 1, 2):
        progress = scale.update({"10": NodeState("running", value, 2), "11": NodeState("running", value, 0)})
        percents.append(progress.percent)
    assert percents == sorted(percents)
    assert 0 < percents[0] < percents[-1] < 95
    assert (progress.step, progress.steps, progress.node) == (2, 4, "Low noise steps")


def test_redaction_takes_out_words_addresses_and_keys() -> None:
    prompt = "a secret garden\nat night"
    redact = Redactor({"prompt": prompt, "seed": 7, "nested": [{"text": "inner words"}]})
    text = (
        f"{prompt!r} and {json.dumps(prompt)} and at night and inner words; https://h/x?sig=1 10.1.2.3:99 me@host.org "
        f"Bearer abc api_key=xyz {'a1' * 30} models/vae/wan_2.1_vae.safetensors"
    )
    redacted = redact(text)
    for secret in ("garden", "night", "inner", "https", "10.1", "me@", "abc", "xyz", "a1a1"):
        assert secret not in redacted
    assert "models/vae/wan_2.1_vae.safetensors" in redacted, "what an operator needs stays"
    assert len(redact("x y " * 1000)) == LONGEST_DETAIL


@pytest.mark.parametrize(
    ("kind", "message", "trouble"),
    [
        ("torch.OutOfMemoryError", "Allocation on device", Trouble.GPU_MEMORY),
        ("torch.cuda.OutOfMemoryError", "", Trouble.GPU_MEMORY),
        ("builtins.RuntimeError", "x\nThis error means you ran out of memory on your GPU.", Trouble.GPU_MEMORY),
        ("torch.AcceleratorError", "CUDA error: out of memory", Trouble.GPU_MEMORY),
        (
            "builtins.RuntimeError",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            Trouble.GPU_MEMORY,
        ),
        ("builtins.RuntimeError", "VRAM grow failed: 28672 bytes", Trouble.GPU_MEMORY),
        ("builtins.RuntimeError", "VRAM reservation failed", Trouble.GPU_MEMORY),
        ("builtins.MemoryError", "VBAR OOM", Trouble.GPU_MEMORY),
        ("builtins.RuntimeError", "HostBuffer.extend failed", Trouble.HOST_MEMORY),
        ("builtins.RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", Trouble.GPU_MEMORY),
        ("builtins.RuntimeError", "DefaultCPUAllocator: can't allocate memory", Trouble.HOST_MEMORY),
        ("builtins.MemoryError", "", Trouble.HOST_MEMORY),
        ("torch.AcceleratorError", "CUDA error: device-side assert triggered", Trouble.DEAD_CONTEXT),
        ("builtins.RuntimeError", "CUDA error: unspecified launch failure", Trouble.DEAD_CONTEXT),
        ("builtins.ValueError", "no", None),
    ],
)
def test_troubles_are_told_apart(kind: str, message: str, trouble: Trouble | None) -> None:
    assert trouble_of(ExecutionError("1", "Node", kind, message)) is trouble


@pytest.mark.parametrize(
    ("node_id", "kind", "message", "failure", "said"),
    [
        (
            "2",
            "safetensors._safetensors_rust.SafetensorError",
            "Error while deserializing header: header too small",
            WorkerMisconfigured,
            "damaged model file wan_2.1_vae.safetensors: VAELoader “VAE” (node 2)",
        ),
        (
            "2",
            "builtins.ValueError",
            "Expecting value: line 1 column 1 (char 0)\n\nFile path: x\n\nThe safetensors file is corrupt or invalid.",
            WorkerMisconfigured,
            "damaged model file wan_2.1_vae.safetensors: VAELoader “VAE” (node 2)",
        ),
        (
            "2",
            "builtins.ValueError",
            "Tensor 'x' extends past the end of the file.\n\nThe safetensors file is corrupt/incomplete.",
            WorkerMisconfigured,
            "damaged model file wan_2.1_vae.safetensors: VAELoader “VAE” (node 2)",
        ),
        ("2", "builtins.FileNotFoundError", "x", WorkerMisconfigured, "missing model file wan_2.1_vae.safetensors"),
        ("99", "PIL.UnidentifiedImageError", "cannot identify image file", InvalidInput, "LoadImage"),
        ("99", "av.error.InvalidDataError", "Invalid data found", InvalidInput, "LoadImage"),
        ("10", "builtins.ValueError", "shapes", ExecutionFailed, "KSamplerAdvanced “High noise steps” (node 10)"),
    ],
)
def test_failures_say_whose_fault_they_are(
    node_id: str, kind: str, message: str, failure: type[JobFailure], said: str
) -> None:
    graph = graphs.sampled() | {"99": graphs.loading("image.png")["1"]}
    error = ExecutionError(node_id, graph[node_id]["class_type"], kind, message)
    found = execution_failure(error, graph, Redactor({}))
    assert type(found) is failure
    assert said in found.detail


def test_customers_read_the_same_sentence_whatever_happened() -> None:
    words = "Traceback: https://10.0.0.1/x?key=1"
    for failure in JobFailure.__subclasses__():
        error = json.loads(failure(words).as_error())
        assert error["detail"] == failure.sentence
        assert error["operator_detail"] == words


def noise(width: int, height: int, picture_format: str) -> bytes:
    encoded = io.BytesIO()
    Image.effect_noise((width, height), 200).convert("RGB").save(encoded, picture_format)
    return encoded.getvalue()


@pytest.mark.parametrize(("width", "height"), [(512, 288), (288, 512), (64, 64), (2048, 2048)])
@pytest.mark.parametrize("picture_format", ["JPEG", "PNG"])
def test_previews_get_small_whatever_they_show(width: int, height: int, picture_format: str) -> None:
    small = small_jpeg(noise(width, height, picture_format))
    assert len(small) <= MAX_BYTES
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, max(image.size)) == ("JPEG", min(320, max(width, height)))


@pytest.mark.parametrize("picture", [b"", b"no picture", noise(64, 64, "JPEG")[:200], noise(64, 64, "GIF")])
def test_preview_that_is_no_picture_is_not_shown(picture: bytes) -> None:
    with pytest.raises(UnusablePreview):
        small_jpeg(picture)


def test_only_previews_that_name_their_prompt_are_read() -> None:
    metadata = json.dumps({"prompt_id": ATTEMPT, "image_type": "image/jpeg"}).encode()
    named = struct.pack(">II", 4, len(metadata)) + metadata + b"picture"
    preview = read_preview(named)
    assert preview is not None
    assert (preview.prompt_id, preview.picture) == (ATTEMPT, b"picture")
    for frame in (struct.pack(">II", 1, 1) + b"picture", struct.pack(">I", 3), b""):
        assert read_preview(frame) is None


def test_messages_that_tell_nothing_of_a_prompt_are_not_read() -> None:
    assert read_message('{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}}}') is None
    assert read_message('{"type": "crystools.monitor", "data": [1]}') is None
    heard = read_message('{"type": "executing", "data": {"node": "3"}}')
    assert heard is not None
    assert heard[1].prompt_id is None, "a socket that was opened again is told a node without its prompt"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"COMFYUI_DIRECTORY": "/nowhere"}, "COMFYUI_DIRECTORY"),
        ({"COMFYUI_PYTHON": "/nowhere"}, "COMFYUI_PYTHON"),
        ({"COMFYUI_SILENCE_SECONDS": "long"}, "COMFYUI_SILENCE_SECONDS"),
    ],
)
def test_settings_name_the_variable_that_is_wrong(changes: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ComfyUISettings.from_environment(environment() | changes)


def test_comfyui_is_not_given_the_workers_keys() -> None:
    settings = ComfyUISettings.from_environment(environment())
    assert settings.environment.keys() == {"PATH", "COMFYUI_DIRECTORY", "COMFYUI_PYTHON", "COMFYUI_WORK_DIRECTORY"}
    assert (settings.silence_seconds, settings.stop_seconds) == (600, 5)


def environment() -> dict[str, Any]:
    return {
        "PATH": "/bin",
        "RUNPOD_AI_API_KEY": "key",
        "AWS_SECRET_ACCESS_KEY": "key",
        "COMFYUI_DIRECTORY": str(Path(__file__).parent / "standin"),
        "COMFYUI_PYTHON": "/bin/sh",
        "COMFYUI_WORK_DIRECTORY": "/tmp/work",
    }
