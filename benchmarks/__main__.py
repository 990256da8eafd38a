"""Every benchmark, one after the other: ``python -m benchmarks``."""

import subprocess
import sys

BENCHMARKS = (
    "benchmarks.broker",
    "benchmarks.ledger",
    "benchmarks.claims",
    "benchmarks.estimates",
    "benchmarks.marking",
    "benchmarks.messaging",
    "benchmarks.newcomer",
    "benchmarks.previews",
    "benchmarks.smoke",
    "benchmarks.tracing",
    "benchmarks.webhooks",
    "benchmarks.worker",
)

if __name__ == "__main__":
    for module in BENCHMARKS:
        print(f"== {module}", flush=True)
        subprocess.run([sys.executable, "-m", module], check=True)
