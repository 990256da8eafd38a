"""The ComfyUI renderer against a stand-in that is held against recorded shapes of the real one."""
