"""The fair queue and the only driver of RunPod."""
