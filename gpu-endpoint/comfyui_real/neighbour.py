"""Another process on the GPU: ``python neighbour.py MEBIBYTES`` holds all of its free memory but that much.

By the Python of ComfyUI. It says ``held``, gives the memory back at the first line that it reads, and says ``free``.
"""

import sys

import torch

MEBIBYTE = 2**20

if __name__ == "__main__":
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - int(sys.argv[1]) * MEBIBYTE, dtype=torch.uint8, device="cuda")
    print("held", flush=True)  # noqa: T201 - to its test
    sys.stdin.readline()
    del held
    torch.cuda.empty_cache()
    print("free", flush=True)  # noqa: T201 - to its test
