"""``python -m provisioning database|broker|cors|lifecycle|after-restore``: what an operator runs or prints."""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from provisioning import after_restore, broker, buckets, database


def passwords_in(file: Path) -> dict[str, str]:
    """The passwords of all roles as ``file`` has them; those that are missing are made and added. Only we may read it.

    So a second run sets the same passwords as the first, and a role that a release adds gets one of its own.
    """
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    passwords = {role: known.get(role) or password for role, password in database.new_passwords().items()}
    if passwords != known:
        new = file.with_name(f"{file.name}.new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(passwords, indent=2) + "\n")
        new.rename(file)
    return passwords


def _database(arguments: argparse.Namespace) -> None:
    passwords = passwords_in(arguments.passwords)
    if arguments.sql:
        sys.stdout.write(database.script(arguments.database, passwords))
        return
    dsns = asyncio.run(database.provision_database(arguments.dsn, arguments.database, passwords))
    _print(dsns)


def _broker(arguments: argparse.Namespace) -> None:
    if arguments.format == "server":
        sys.stdout.write(broker.server_configuration())
    else:
        _print(broker.chart_values())


def _after_restore(arguments: argparse.Namespace) -> None:
    asyncio.run(_name_and_empty(arguments, arguments.nats_password_file.read_text().strip()))


async def _name_and_empty(arguments: argparse.Namespace, password: str) -> None:
    lost: Counter[str] = Counter()
    broker_login = (arguments.nats_url, arguments.nats_user, password)
    async for message in after_restore.find_lost_messages(*broker_login, arguments.dsn):
        lost[message.subject] += 1
        sys.stdout.write(msgspec.json.encode(message).decode() + "\n")
    for subject, count in sorted(lost.items()):
        sys.stderr.write(f"{count} x {subject} are lost\n")
    if arguments.dry_run:
        sys.stderr.write("nothing was changed\n")
        return
    for stream, count in (await after_restore.empty_streams(*broker_login)).items():
        sys.stderr.write(f"stream {stream}: {count} messages removed\n")


def _print(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m provisioning", description="What a platform needs once.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("database", help="roles, schemas and grants; prints the connection strings as JSON")
    how = making.add_mutually_exclusive_group(required=True)
    how.add_argument("--dsn", help="connection string of a role that may create roles and databases")
    how.add_argument("--sql", action="store_true", help="print the SQL and change nothing")
    making.add_argument("--database", default="reelhouse")
    making.add_argument(
        "--passwords", type=Path, required=True, help="JSON file of all roles' passwords; what is missing is added"
    )
    making.set_defaults(run=_database)
    users = commands.add_parser("broker", help="print NATS users and permissions")
    users.add_argument("--format", choices=("server", "chart"), required=True, help="nats-server's own, or Helm values")
    users.set_defaults(run=_broker)
    sharing = commands.add_parser("cors", help="print the CORS rules of the bucket for uploads")
    sharing.add_argument("--origin", action="append", required=True, help="an origin of the frontend; repeatable")
    sharing.set_defaults(run=lambda arguments: _print(buckets.cors(arguments.origin)))
    expiring = commands.add_parser("lifecycle", help="print the expiry rules of a bucket")
    expiring.add_argument("bucket", choices=sorted(buckets.EXPIRY_DAYS))
    expiring.set_defaults(run=lambda arguments: _print(buckets.lifecycle(arguments.bucket)))
    restoring = commands.add_parser(
        "after-restore", help="after a database was restored: print what is lost as JSON lines, and empty the streams"
    )
    restoring.add_argument("--nats-url", required=True)
    restoring.add_argument("--nats-user", required=True, help="a user that may read and purge every stream")
    restoring.add_argument("--nats-password-file", type=Path, required=True, help="a file that holds its password")
    restoring.add_argument("--dsn", required=True, help="connection string that may read every outbox: the auditor's")
    restoring.add_argument("--dry-run", action="store_true", help="print what is lost, and change nothing")
    restoring.set_defaults(run=_after_restore)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
