"""Which changes of the API's description break a client that was generated from an earlier one.

What a client sends may only become more tolerant, and what it is sent may only become more precise or richer. A new
value of an enumeration that clients are sent is allowed: clients take it as "something else", as docs/api.md says.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Json = Mapping[str, Any]
Direction = Literal["sent", "received"]
"""Whether a client sends what the schema describes, or receives it."""

_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")


def breaking_changes(old: Json, new: Json) -> list[str]:
    """One sentence for each change that breaks a client of ``old``; an empty list if none does."""
    return list(_Comparison(old, new).operations())


@dataclass
class _Comparison:
    old: Json
    new: Json

    def operations(self) -> Iterator[str]:
        for path, methods in self.old["paths"].items():
            for method, before in methods.items():
                where = f"{method.upper()} {path}"
                after = self.new["paths"].get(path, {}).get(method)
                if after is None:
                    yield f"{where} is gone"
                    continue
                if before["operationId"] != after["operationId"]:
                    yield f"{where}: {before['operationId']} is called {after['operationId']} now"
                yield from self._parameters(where, before, after)
                yield from self._bodies(where, before, after)
                yield from self._answers(where, before, after)

    def _parameters(self, where: str, before: Json, after: Json) -> Iterator[str]:
        had = {(one["in"], one["name"]): one for one in before.get("parameters", ())}
        has = {(one["in"], one["name"]): one for one in after.get("parameters", ())}
        for place, name in had.keys() - has.keys():
            yield f"{where}: the parameter {name} ({place}) is gone"
        for key, parameter in has.items():
            if parameter.get("required") and not had.get(key, {}).get("required"):
                yield f"{where}: the parameter {key[1]} is required now"
            if key in had:
                yield from self._schemas(f"{where} {key[1]}", had[key]["schema"], parameter["schema"], "sent")

    def _bodies(self, where: str, before: Json, after: Json) -> Iterator[str]:
        if "requestBody" not in after:
            if "requestBody" in before:
                yield f"{where} takes no body any more"
            return
        if "requestBody" not in before:
            yield f"{where} needs a body now"
            return
        for kind, media in before["requestBody"]["content"].items():
            other = after["requestBody"]["content"].get(kind)
            if other is None:
                yield f"{where} does not take {kind} any more"
            else:
                yield from self._schemas(f"{where} body", media["schema"], other["schema"], "sent")

    def _answers(self, where: str, before: Json, after: Json) -> Iterator[str]:
        for status, answer in before["responses"].items():
            if status not in after["responses"]:
                if status < "400":
                    yield f"{where} does not answer {status} any more"
                continue
            for kind, media in answer.get("content", {}).items():
                other = after["responses"][status].get("content", {}).get(kind)
                if other is None:
                    yield f"{where} {status} is not answered as {kind} any more"
                else:
                    yield from self._schemas(f"{where} {status}", media["schema"], other["schema"], "received")

    def _schemas(
        self, where: str, before: Json, after: Json, direction: Direction, seen: tuple[str, ...] = ()
    ) -> Iterator[str]:
        name = before.get("$ref")
        if name in seen:
            return
        seen = (*seen, name) if name else seen
        where = f"{where} {name.rpartition('/')[2]}" if name else where
        yield from self._types(where, before, after, direction)
        before, after = _resolved(self.old, before), _resolved(self.new, after)
        yield from _enumerations(where, before, after, direction)
        if direction == "sent":
            yield from _limits(where, before, after)
        for schema in ("items", "additionalProperties"):
            if isinstance(before.get(schema), dict) and isinstance(after.get(schema), dict):
                yield from self._schemas(f"{where}[]", before[schema], after[schema], direction, seen)
        yield from self._properties(where, before, after, direction, seen)
        yield from self._alternatives(where, before, after, direction, seen)

    def _types(self, where: str, before: Json, after: Json, direction: Direction) -> Iterator[str]:
        had, has = _types_of(self.old, before), _types_of(self.new, after)
        if had and has:
            lost, added = had - has, has - had
            if direction == "sent" and lost:
                yield f"{where} does not take {', '.join(sorted(lost))} any more"
            if direction == "received" and added:
                yield f"{where} may be {', '.join(sorted(added))} now"

    def _properties(
        self, where: str, before: Json, after: Json, direction: Direction, seen: tuple[str, ...]
    ) -> Iterator[str]:
        had, has = before.get("properties", {}), after.get("properties", {})
        required_before, required_after = set(before.get("required", ())), set(after.get("required", ()))
        for name in had.keys() - has.keys():
            yield f"{where}.{name} is gone"
        if direction == "sent":
            for name in sorted(required_after - required_before):
                yield f"{where}.{name} is required now"
        else:
            for name in sorted((required_before - required_after) & has.keys()):
                yield f"{where}.{name} may be missing now"
        for name in had.keys() & has.keys():
            yield from self._schemas(f"{where}.{name}", had[name], has[name], direction, seen)

    def _alternatives(
        self, where: str, before: Json, after: Json, direction: Direction, seen: tuple[str, ...]
    ) -> Iterator[str]:
        """Alternatives that are told apart by a constant: events by their name, problems by their code."""
        had, has = _by_constant(before), _by_constant(after)
        for constant in had.keys() - has.keys():
            yield f"{where}: {constant} is gone"
        for constant in had.keys() & has.keys():
            yield from self._schemas(f"{where} {constant}", had[constant], has[constant], direction, seen)


def _resolved(document: Json, schema: Json) -> Json:
    """The schema itself; of one that may be null, the part that is not."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    return _resolved(document, parts[0]) if len(parts) == 1 else schema


def _types_of(document: Json, schema: Json) -> set[str]:
    if "anyOf" in schema:
        return {one for part in schema["anyOf"] for one in _types_of(document, part)}
    if "$ref" in schema:
        return _types_of(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    kinds = schema.get("type", ())
    return {kinds} if isinstance(kinds, str) else set(kinds)


def _enumerations(where: str, before: Json, after: Json, direction: Direction) -> Iterator[str]:
    had, has = set(before.get("enum", ())), set(after.get("enum", ()))
    if had and (has or direction == "received"):
        for value in sorted(had - has):
            yield f"{where}: the value {value} is gone"
    if not had and has and direction == "sent":
        yield f"{where} takes only some values now"


def _limits(where: str, before: Json, after: Json) -> Iterator[str]:
    for limit in _UPPER:
        if limit in after and after[limit] < before.get(limit, float("inf")):
            yield f"{where}: {limit} is {after[limit]} now"
    for limit in _LOWER:
        if limit in after and after[limit] > before.get(limit, float("-inf")):
            yield f"{where}: {limit} is {after[limit]} now"
    if "pattern" in after and after["pattern"] != before.get("pattern"):
        yield f"{where} follows another pattern now"


def _by_constant(schema: Json) -> dict[str, Json]:
    found = {}
    for part in schema.get("oneOf", ()):
        constants = [one["const"] for one in part.get("properties", {}).values() if "const" in one]
        if constants:
            found[str(constants[0])] = part
    return found
