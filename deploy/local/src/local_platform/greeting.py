"""What is printed about a platform that runs: a table of its processes, the playground's address, commands to paste."""

from typing import Final

from rich.table import Table

from local_platform.console import bold, say, table
from local_platform.description import PlatformDescription
from local_platform.identity import DEVELOPMENT_USER, sign_token

_TOKEN_SECONDS: Final = 12 * 3600


def process_table(platform: PlatformDescription) -> Table:
    """What runs where."""
    rows = [
        (name, process.address, str(process.pid), str(process.restarts or ""), process.log_file)
        for name, process in platform.processes.items()
    ]
    return table(("process", "address", "pid", "restarts", "log"), rows)


def say_how_to_try_it(platform: PlatformDescription) -> None:
    """Print the address of the playground, and commands to paste: a token, credits, an order, and how to follow it."""
    say("\n", bold("Open this in a browser:"), f" {platform.urls['gateway']}/playground/")
    token = sign_token(platform.identity, DEVELOPMENT_USER, "pro", lifetime_seconds=_TOKEN_SECONDS)
    body = '{"model_id": "wan-2.2-t2v", "parameters": {"prompt": "a lighthouse in a storm"}}'
    say("\n", bold("Or paste this:"))
    say(
        f"""export REELHOUSE={platform.urls["gateway"]}
export TOKEN={token}
export USER_ID={DEVELOPMENT_USER}

# grant credits to the development user, whom the playground signs in, too
make run NAME={platform.name} SERVICE=billing \\
  ARGS="grant --user $USER_ID --credits 1000 --reason goodwill --actor me"
# list the models, and show the balance
curl -s $REELHOUSE/v1/models -H "Authorization: Bearer $TOKEN"
curl -s $REELHOUSE/v1/balance -H "Authorization: Bearer $TOKEN"
# order a clip
curl -s -X POST $REELHOUSE/v1/generations -H "Authorization: Bearer $TOKEN" \\
  -H "Idempotency-Key: $(date +%s)" -H 'Content-Type: application/json' -d '{body}'
# follow the events, past and new ones (Ctrl-C ends); then list the orders
curl -sN $REELHOUSE/v1/events -H "Authorization: Bearer $TOKEN" -H "Last-Event-ID: 0"
curl -s $REELHOUSE/v1/generations -H "Authorization: Bearer $TOKEN"
"""
    )
