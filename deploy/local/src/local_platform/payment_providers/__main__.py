"""One emulator as a process: ``python -m local_platform.payment_providers PROVIDER --port N --api-key KEY ...``."""

import argparse

import uvicorn

from contracts.payments import PROVIDERS
from local_platform.payment_providers.emulation import Account
from local_platform.payment_providers.table import EMULATIONS


def main() -> None:
    """Parse and serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("provider", choices=PROVIDERS)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--public-url", help="where browsers reach it, if not at host and port")
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--webhook-url", required=True, help="where the webhooks go")
    parser.add_argument("--webhook-secret", required=True)
    parser.add_argument("--name", required=True, help="what the provider calls the account: a store, an e-mail address")
    parser.add_argument("--password", required=True, help="the account's, at providers that ask for one")
    arguments = parser.parse_args()
    account = Account(
        url=arguments.public_url or f"http://{arguments.host}:{arguments.port}",
        api_key=arguments.api_key,
        webhook_url=arguments.webhook_url,
        webhook_secret=arguments.webhook_secret,
        name=arguments.name,
        password=arguments.password,
    )
    app = EMULATIONS[arguments.provider].build(account).app()
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
