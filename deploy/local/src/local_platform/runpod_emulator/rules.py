"""Misbehaviour on request: each rule is one fault, for some jobs, some of the time."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from local_platform.runpod_emulator.settings import Operation

Effect = Literal[
    # requests
    "answer_error",  # `http_status` instead of doing anything
    "accept_then_error",  # do it, then answer `http_status`
    "accept_then_reset",  # do it, then reset the TCP connection instead of answering
    "slow_response",  # do it, then wait `delay_seconds` before answering
    # webhooks
    "drop_webhook",  # never sent
    "double_webhook",  # sent `copies` times
    "delay_webhook",  # sent `delay_seconds` later
    "reorder_webhooks",  # held for `delay_seconds`, then sent in reverse order
    # jobs
    "lose_queued_job",  # accepted, and forgotten at once: /status says 404
    "stick_in_queue",  # accepted, and never given to a worker
    "fail_job",  # FAILED with `error` instead of being given to a worker
    "lose_running_job",  # forgotten `delay_seconds` after a worker took it; the worker goes on unaware
    "late_success",  # reported as `status` `delay_seconds` after a worker took it; the worker goes on unaware
    "lose_output",  # COMPLETED without an output
    "lose_result",  # the worker's result is accepted and forgotten: the job stays IN_PROGRESS
]


class Rule(BaseModel):
    """One fault.

    The filters are ``endpoint``, ``job_id``, ``operation`` (for effects on requests) and ``input``, whose keys must
    have the same values in the job's input. The rule strikes at most ``count`` times. Each time that the filters
    match, it strikes with ``probability``, drawn from a generator of its own that starts from ``seed``.
    """

    model_config = ConfigDict(extra="forbid")

    effect: Effect
    endpoint: str | None = None
    job_id: str | None = None
    operation: Operation | None = None
    input: dict[str, JsonValue] = Field(default_factory=dict)
    count: int | None = Field(default=None, ge=1)
    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int = 0
    http_status: int = Field(default=500, ge=400, le=599)
    retry_after_seconds: int | None = Field(default=None, ge=0)
    delay_seconds: float = Field(default=0, ge=0, le=86400)
    copies: int = Field(default=2, ge=2, le=100)
    error: str = "the emulator was told to fail this job"
    status: Literal["TIMED_OUT", "FAILED"] = "TIMED_OUT"


@dataclass(frozen=True)
class Subject:
    """What a rule is compared with. ``job_id`` and ``job_input`` are None if there is no such job."""

    endpoint: str
    operation: Operation | None = None
    job_id: str | None = None
    job_input: Mapping[str, JsonValue] | None = None


@dataclass
class _ActiveRule:
    id: str
    rule: Rule
    random: random.Random
    strikes: int = 0

    def matches(self, effect: Effect, subject: Subject) -> bool:
        rule = self.rule
        return (
            rule.effect == effect
            and (rule.count is None or self.strikes < rule.count)
            and rule.endpoint in (None, subject.endpoint)
            and rule.job_id in (None, subject.job_id)
            and rule.operation in (None, subject.operation)
            and all((subject.job_input or {}).get(key) == value for key, value in rule.input.items())
        )


@dataclass
class Rulebook:
    """The active rules, oldest first. The first one that matches strikes."""

    _rules: dict[str, _ActiveRule] = field(default_factory=dict)
    _made: int = 0

    def __bool__(self) -> bool:
        return bool(self._rules)

    def add(self, rule: Rule) -> dict[str, object]:
        """Activate a rule. Returns it with its id."""
        self._made += 1
        active = _ActiveRule(f"rule-{self._made}", rule, random.Random(rule.seed))
        self._rules[active.id] = active
        return _with_strikes(active)

    def remove(self, rule_id: str) -> bool:
        """Remove a rule. False if there is none of this id."""
        return self._rules.pop(rule_id, None) is not None

    def clear(self) -> None:
        """Remove all rules. Faults that have happened stay."""
        self._rules.clear()

    def listed(self) -> list[dict[str, object]]:
        """Every rule with the number of its strikes, exhausted rules too."""
        return [_with_strikes(active) for active in self._rules.values()]

    def strike(self, effect: Effect, subject: Subject) -> Rule | None:
        """The rule that strikes now, if any. Counts the strike."""
        for active in self._rules.values():
            if active.matches(effect, subject) and active.random.random() < active.rule.probability:
                active.strikes += 1
                return active.rule
        return None


def _with_strikes(active: _ActiveRule) -> dict[str, object]:
    return {"id": active.id, "strikes": active.strikes, **active.rule.model_dump(mode="json")}
