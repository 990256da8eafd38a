"""Model files on a volume: ``python -m gpu_endpoint.provision download|check|paths|manifest``."""
