"""Named places at which a test can make the process die: ``REELHOUSE_FAILPOINTS=relay.after_publish``.

``name:3`` dies at the third passage; several names are separated by commas. Death is SIGKILL, so that nothing is
flushed, rolled back or said goodbye to. Without the variable each passage costs one look into the environment.
"""

import os
import signal
from collections import Counter
from typing import Final

VARIABLE: Final = "REELHOUSE_FAILPOINTS"

_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process if ``REELHOUSE_FAILPOINTS`` says that it is to die here."""
    configured = os.environ.get(VARIABLE)
    if not configured:
        return
    for entry in configured.split(","):
        wanted, _, number = entry.strip().partition(":")
        if wanted == name:
            _passages[name] += 1
            if _passages[name] >= int(number or 1):
                os.kill(os.getpid(), signal.SIGKILL)
