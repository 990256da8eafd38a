"""Named places at which a test can make the process die: ``REELHOUSE_FAILPOINTS=relay.after_publish``.

``name:3`` dies at the third passage; several names are separated by commas. Death is SIGKILL, so that nothing is
flushed or rolled back. ``name=freeze`` stops the process there once (SIGSTOP), until it receives SIGCONT. Without the
variable each passage costs one look into the environment.
"""

import os
import signal
from collections import Counter
from typing import Final

VARIABLE: Final = "REELHOUSE_FAILPOINTS"

_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill or freeze this process if ``REELHOUSE_FAILPOINTS`` says so."""
    configured = os.environ.get(VARIABLE)
    if not configured:
        return
    for entry in configured.split(","):
        place, _, action = entry.strip().partition("=")
        wanted, _, number = place.partition(":")
        if wanted == name:
            _passages[place] += 1
            if _passages[place] == int(number or 1):
                os.kill(os.getpid(), signal.SIGSTOP if action == "freeze" else signal.SIGKILL)
