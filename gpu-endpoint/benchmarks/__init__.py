"""Benchmarks of the worker alone."""
