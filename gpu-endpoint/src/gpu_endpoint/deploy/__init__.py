"""The RunPod endpoint as code: ``python -m gpu_endpoint.deploy plan|apply|status``."""
