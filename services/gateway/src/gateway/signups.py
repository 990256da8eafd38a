"""Credits new users when they first come, once each, and lets their first answer show it."""

import asyncio
import math
import time
from collections import OrderedDict
from datetime import timedelta
from typing import Final
from uuid import UUID

from contracts.billing import GrantSignupCredits
from gateway import repository
from gateway.domain import User
from gateway.metrics import SIGNUPS
from gateway.records import Signup
from gateway.settings import Settings
from messaging.database import single_statements
from messaging.transaction import Transactions
from service_runtime.backoff import Backoff

KNOWN_USERS: Final = 100_000
"""Users of whom this replica knows that there is nothing to do. Who is forgotten costs a query."""
TOO_MANY_PAUSE_SECONDS: Final = 60.0
"""How long a user is not tried again after the day's sign-ups were used up."""
_POLLS: Final = Backoff(first=timedelta(milliseconds=20), longest=timedelta(milliseconds=320))


class Signups:
    """Asks billing to credit each new user. Without an amount in the settings it does nothing.

    The primary key of ``gateway.signups`` makes it once ever, whatever replicas and retries do.
    """

    def __init__(self, settings: Settings, transactions: Transactions) -> None:
        self._amount_credits = settings.signup_credits
        self._most_per_day = settings.max_signups_per_day
        self._wait_seconds = settings.verdict_wait_seconds
        self._transactions = transactions
        self._known_until: OrderedDict[UUID, float] = OrderedDict()

    async def welcome(self, user: User) -> None:
        """Credit the user if they are new. Returns when the credits are shown, or a little later without them."""
        if not self._amount_credits or not user.is_confirmed or self._is_known(user.user_id):
            return
        signup = await self._find(user.user_id)
        if not (signup.is_requested or signup.has_had_credits):
            await self._request(user.user_id)
            signup = await self._find(user.user_id)
        if signup.is_requested and not signup.has_had_credits:
            await self._credited(user.user_id)
        if signup.is_requested or signup.has_had_credits:
            self._remember(user.user_id, math.inf)
        else:
            SIGNUPS.labels("too_many").inc()
            self._remember(user.user_id, time.monotonic() + TOO_MANY_PAUSE_SECONDS)

    async def _credited(self, user_id: UUID) -> None:
        """Wait for the credits, so that the first balance has them; the request is durable either way."""
        deadline, polls = time.monotonic() + self._wait_seconds, 0
        while time.monotonic() < deadline:
            polls += 1
            await asyncio.sleep(_POLLS.seconds(polls, user_id))
            if (await self._find(user_id)).has_had_credits:
                return

    async def _request(self, user_id: UUID) -> None:
        command = GrantSignupCredits(user_id=user_id, amount_credits=self._amount_credits)
        async with self._transactions.begin() as tx:
            if await repository.add_signup(
                tx.connection, user_id, command.grant_id, command.amount_credits, self._most_per_day
            ):
                tx.publish(command, correlation_id=command.grant_id)
                tx.after_commit(SIGNUPS.labels("credited").inc)

    async def _find(self, user_id: UUID) -> Signup:
        async with single_statements(self._transactions.engine) as connection:
            return await repository.find_signup(connection, user_id)

    def _is_known(self, user_id: UUID) -> bool:
        return time.monotonic() < self._known_until.get(user_id, -math.inf)

    def _remember(self, user_id: UUID, until: float) -> None:
        self._known_until[user_id] = until
        self._known_until.move_to_end(user_id)
        if len(self._known_until) > KNOWN_USERS:
            self._known_until.popitem(last=False)
