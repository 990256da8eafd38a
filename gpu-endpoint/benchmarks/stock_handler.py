"""The stock ComfyUI worker's handler, as far as its start goes: written from its documented steps, not from its code.

It is started beside ComfyUI and takes a job at once. The job then asks every 50 ms whether ComfyUI answers, posts the
workflow, waits for the file, reads it over HTTP and answers with it in base64.
"""

import base64
import json
import os
import time
from typing import Any

import requests
import runpod.serverless
from runpod.serverless.utils import rp_upload  # noqa: F401 - the stock handler imports it

_URL = os.environ["COMFYUI_URL"]
_POLL_SECONDS = 0.05


def handle(job: dict[str, Any]) -> dict[str, Any]:
    """A synchronous handler, as the stock one is."""
    _wait(lambda: requests.get(f"{_URL}/", timeout=5).status_code == 200)
    print(json.dumps({"message": "comfyui_answers", "at": time.time()}), flush=True)
    answer = requests.post(f"{_URL}/prompt", json={"prompt": job["input"]["workflow"]}, timeout=30)
    answer.raise_for_status()
    prompt_id = answer.json()["prompt_id"]
    # The stock one listens to a socket, which tells the end sooner than this by 25 ms on average.
    _wait(lambda: prompt_id in requests.get(f"{_URL}/history/{prompt_id}", timeout=30).json())
    history = requests.get(f"{_URL}/history/{prompt_id}", timeout=30).json()[prompt_id]
    if not history["status"]["completed"]:
        raise RuntimeError("the prompt failed")
    files = [file for output in history["outputs"].values() for file in output.get("images", [])]
    content = requests.get(f"{_URL}/view", params=files[0], timeout=30).content
    return {
        "images": [{"filename": files[0]["filename"], "type": "base64", "data": base64.b64encode(content).decode()}]
    }


def _wait(condition: Any) -> None:
    while True:
        try:
            if condition():
                return
        except requests.RequestException:
            pass
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    runpod.serverless.start({"handler": handle})
