"""Started by the worker in place of ComfyUI's ``main.py``, with the same arguments."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.comfyui.standin.server import serve

if __name__ == "__main__":
    serve(sys.argv[1:])
