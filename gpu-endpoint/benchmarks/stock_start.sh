#!/bin/sh
# The stock ComfyUI worker's start, from its documented steps, without what needs its image (sshd, tcmalloc, the manager).
# Each variable that is used here is set by start.py.
set -eu
"$COMFYUI_PYTHON" -c 'import torch; torch.cuda.is_available() and torch.cuda.init()'
echo "{\"message\": \"torch_tried\", \"at\": $(date +%s.%N)}"
cd "$COMFYUI_DIRECTORY"
"$COMFYUI_PYTHON" -u main.py --disable-auto-launch --disable-metadata --verbose DEBUG --log-stdout $COMFYUI_ARGUMENTS &
exec "$HANDLER_PYTHON" -u "$HANDLER"
