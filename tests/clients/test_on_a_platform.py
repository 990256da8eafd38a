"""The clients as their users meet them, against a running platform."""

from pathlib import Path
from uuid import uuid4

from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from tests.support.node import CLIENT, build_client, run_node


def test_the_typescript_client_does_what_it_says(
    platform: PlatformDescription, funded_token: str, picture: Path
) -> None:
    build_client()
    environment = {
        "REELHOUSE": platform.urls["gateway"],
        "TOKEN": funded_token,
        "POOR_TOKEN": sign_token(platform.identity, uuid4()),
        "PICTURE": str(picture),
    }
    run_node(CLIENT, "--test", "test/platform.test.ts", environment=environment)
