"""What an operator's command cannot do."""


class UnknownIdentity(Exception):
    """No service knows this id as a generation, a payment or a user, and no message mentions it."""


class NoDatabase(Exception):
    """Nobody said which database to look at."""
