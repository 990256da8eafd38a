"""The worker's own tests, run in its own environment."""
