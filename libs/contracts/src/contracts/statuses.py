"""What a status means. Each aggregate says it as data beside its statuses, and the docs' tables are made from that."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusMeaning:
    """One status in four sentences: who sets it, what ends it, by when, and what the user sees meanwhile."""

    set_by: str
    ended_by: str
    deadline: str
    user_sees: str


_HEADINGS: Final = ("status", "set by", "ended by", "deadline", "the user sees")


def status_table(meanings: Mapping[str, StatusMeaning]) -> str:
    """The meanings of one aggregate's statuses as a Markdown table, in the order of the mapping."""
    rows = [
        (f"`{status}`", *(getattr(meaning, field.name) for field in fields(StatusMeaning)))
        for status, meaning in meanings.items()
    ]
    return "".join(_line(cells) for cells in (_HEADINGS, ("---",) * len(_HEADINGS), *rows))


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |\n"
