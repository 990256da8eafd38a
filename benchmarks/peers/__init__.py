"""The same job as most teams would build it, twice, and what an order costs in each: ``python -m benchmarks.peers``."""
