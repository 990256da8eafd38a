"""Benchmarks: each a ratio against a peer and against a limit, measured in one run."""
