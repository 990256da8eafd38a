"""Documents are readable, their references lead somewhere, and the generated ones say what the code says."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_platform.statuses import render

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs/decisions"
GENERATED_DIRECTORIES = {"node_modules", "dist"}
LONGEST_LINE = 119

# One heading, one line of status: "Status: accepted. Date: 2026-11-23."
RECORD = re.compile(r"\A# (?P<title>\d{4}: .+)\n\nStatus: (?P<status>.+)\. Date: (?P<date>\d{4}-\d\d-\d\d)\.\n")
STATUS = re.compile(r"proposed|accepted|superseded by \d{4}")


def _documents() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*.md")):
        parts = path.relative_to(ROOT).parts
        if not any(part.startswith(".") or part in GENERATED_DIRECTORIES for part in parts):
            yield path


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


DOCUMENTS = list(_documents())
WRAPPED = [path for path in DOCUMENTS if path.parent in (ROOT, ROOT / "docs", DECISIONS)]
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
each_wrapped_document = pytest.mark.parametrize("document", WRAPPED, ids=_name)
each_record = pytest.mark.parametrize("record", RECORDS, ids=_name)


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines outside of code blocks and tables, which cannot be wrapped."""
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ")):
            yield number, line


def _anchors(text: str) -> set[str]:
    """The fragments by which a document's headings are reached."""
    headings = (line.lstrip("#").strip() for _, line in _prose(text) if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_wrapped_document
def test_no_line_of_prose_is_too_long(document: Path) -> None:
    long = {number: len(line) for number, line in _prose(document.read_text()) if len(line) > LONGEST_LINE}
    assert not long, f"{_name(document)}: lines and their lengths"


@each_document
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{_name(document)}: {target}"
        assert not fragment or fragment in _anchors(linked.read_text()), f"{_name(document)}: {target}"


@each_record
def test_every_decision_states_its_status_and_date_as_the_index_does(record: Path) -> None:
    stated = RECORD.match(record.read_text())
    assert stated, f"{_name(record)} does not begin as docs/decisions/template.md does"
    assert STATUS.fullmatch(stated["status"])
    row = f"| [{stated['title']}]({record.name}) | {stated['status']} | {stated['date']} |"
    assert row in (DECISIONS / "README.md").read_text().splitlines(), f"not in the index: {row}"


def test_the_index_of_decisions_lists_nothing_else() -> None:
    listed = re.findall(r"\]\((\d{4}-[^)]+)\)", (DECISIONS / "README.md").read_text())
    assert listed == [record.name for record in RECORDS]


def test_the_page_about_statuses_is_current() -> None:
    assert (ROOT / "docs/statuses.md").read_text(encoding="utf-8") == render(), "run `make docs`"
