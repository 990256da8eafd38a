"""A new user's path, timed: from `git clone` to a clip that plays in the playground, in a real Chromium.

    python -m benchmarks.newcomer

This checkout's commit is cloned into a new folder, with an empty home and so with empty caches, and `make up` is run
there. Then a browser walks as `tests/browser/playground.test.js` does: open the page, sign in, find that credits are
missing, buy some, order, watch, play. What the browser needs is installed in this checkout before, and is not timed.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from local_platform.console import say, table
from local_platform.description import PlatformNotRunningError, read_platform
from tests.clients.harbour import harbour
from tests.support.node import BROWSER, ROOT, run_node

NAME: Final = "newcomer"
START_SECONDS: Final = 600.0
AIM_USABLE_MS: Final = 500
STEPS: Final = {
    "the page is usable at once": "open the playground",
    "a new user signs in and sees a form with a price": "sign in, fill the form, read the price",
    "who has no credits buys some, comes back, and finds the order unfinished": "buy credits and come back",
    "an order is watched while it is made, and a reload loses nothing": "order, watch, reload in the middle",
    "the clip plays": "the clip is done, and plays",
}
"""The tests of the walk that a newcomer's path consists of, in their order."""


def main() -> int:
    """Time the path and print it. Exits with 1 if the page was not usable within its aim."""
    subprocess.run(["make", "node"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(prefix="reelhouse-newcomer-") as temporary:
        folder = Path(temporary)
        rows = [["git clone", f"{clone(folder / 'reelhouse'):.1f} s"]]
        usable, steps = run_up(folder, rows)
    rows += [[what, f"{seconds:.1f} s"] for what, seconds in steps]
    rows.append(["together", f"{sum(float(seconds.removesuffix(' s')) for _, seconds in rows):.1f} s"])
    say(table(("step", "took"), rows))
    say(f"the page was usable after {', '.join(str(load) for load in usable)} ms (the aim is {AIM_USABLE_MS} ms)")
    return 0 if min(usable) <= AIM_USABLE_MS else 1


def clone(folder: Path) -> float:
    """Clone this checkout's commit. Returns the seconds that it took."""
    began = time.monotonic()
    subprocess.run(["git", "clone", "--quiet", "--no-local", str(ROOT), str(folder)], check=True)
    return time.monotonic() - began


def run_up(folder: Path, rows: list[list[str]]) -> tuple[list[int], list[tuple[str, float]]]:
    """Run `make up` in the clone, and walk. Adds how long it took to ``rows``; returns what the browser measured."""
    home, checkout, log = folder / "home", folder / "reelhouse", folder / "up.log"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    environment["HOME"] = str(home)
    began = time.monotonic()
    with log.open("wb") as output:
        up = subprocess.Popen(
            ["make", "up", f"NAME={NAME}"], cwd=checkout, env=environment, stdout=output, stderr=output
        )
    try:
        address = wait_until_up(up, checkout, log)
        rows.append(["make up, with its installation", f"{time.monotonic() - began:.1f} s"])
        return walk(address, folder)
    finally:
        subprocess.run(["make", "down", f"NAME={NAME}"], cwd=checkout, env=environment, check=True)
        up.wait(60)


def wait_until_up(up: "subprocess.Popen[bytes]", checkout: Path, log: Path) -> str:
    """The gateway's address, once everything runs."""
    deadline = time.monotonic() + START_SECONDS
    while up.poll() is None and time.monotonic() < deadline:
        try:
            return read_platform(NAME, checkout).urls["gateway"]
        except PlatformNotRunningError:
            time.sleep(0.1)
    raise SystemExit(f"make up failed:\n{log.read_text()[-4000:]}")


def walk(address: str, folder: Path) -> tuple[list[int], list[tuple[str, float]]]:
    """The milliseconds until the page was usable, for each load, and the seconds of each step."""
    picture = folder / "harbour.png"
    picture.write_bytes(harbour())
    unpacked = BROWSER / "node_modules/.chromium"
    unpacked.mkdir(exist_ok=True)
    output = run_node(
        BROWSER,
        *("--test", "--test-reporter=tap", f"--test-name-pattern=^({'|'.join(STEPS)})$", "playground.test.js"),
        environment={
            "REELHOUSE": address,
            "PICTURE": str(picture),
            "PICTURES": str(folder),
            "TMPDIR": str(unpacked),
        },
    )
    usable = re.search(r"usable after ([\d, ]+) ms", output)
    took = dict(re.findall(r"^ok \d+ - (.+)\n\s+---\n\s+duration_ms: ([\d.]+)", output, re.MULTILINE))
    if usable is None or took.keys() != STEPS.keys():
        raise SystemExit(f"the walk did not say how long it took:\n{output}")
    steps = [(what, float(took[test]) / 1000) for test, what in STEPS.items()]
    return [int(load) for load in usable[1].split(", ")], steps


if __name__ == "__main__":
    sys.exit(main())
