"""Where a worker's model files come from: the host's cache or the volume, copied to the local disk while it starts."""

from gpu_endpoint.model_store.settings import ModelStoreSettings
from gpu_endpoint.model_store.store import ModelStore

__all__ = ["ModelStore", "ModelStoreSettings"]
