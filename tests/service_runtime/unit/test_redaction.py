"""Nothing that gives access reaches a log."""

import json
import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import structlog

from service_runtime.fair_pool import FairPool
from service_runtime.logging import configure_logging
from service_runtime.redaction import redact, redact_value
from service_runtime.tracing import configure_tracing, current_trace_id, span
from tests.service_runtime.settings import settings


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (
            "POST /webhooks/runpod/01890a5d-ac96-774b-bcce-b302099a8057/1790000000.a3f5c0ffee/progress",
            "1790000000.a3f5c0ffee",
        ),
        ("https://b.r2.example/incoming/x?X-Amz-Date=1&X-Amz-Signature=deadbeef&X-Amz-Expires=60", "deadbeef"),
        ("https://b.r2.example/x?X-Amz-Credential=AKIA%2F2026&z=1", "AKIA%2F2026"),
        ("postgresql://billing:hunter22@db:5432/reelhouse", "hunter22"),
        ("Authorization: Bearer abcdefgh.ijklmnop", "abcdefgh.ijklmnop"),
        ("token was eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl", "eyJzdWIiOi"),
        ("sk_test_4eC39HqLyjWDarjtT1zdp7dc failed", "4eC39HqLyjWDarjtT1zdp7dc"),
        ("whsec_Jg7fkGh2kJh34gKJHG", "Jg7fkGh2kJh34gKJHG"),
    ],
)
def test_the_part_of_a_text_that_gives_access_is_cut_out(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "[redacted]" in redact(text)


def test_a_long_requested_path_is_logged_without_delaying_the_process() -> None:
    path = "/" + "a" * 64 * 1024
    began = time.perf_counter()
    assert redact(path) == path
    assert time.perf_counter() - began < 0.5


def test_ordinary_text_is_left_as_it_is() -> None:
    text = "generation 01890a5d-ac96-774b-bcce-b302099a8057 completed at https://x.example/a?page=2 in 12 s"
    assert redact(text) == text


def test_values_under_secret_names_are_hidden_at_any_depth() -> None:
    value = {"output": {"put_url": "https://a", "object_key": "incoming/x"}, "tries": [{"password": 1}, None, 2.5]}
    assert redact_value(value) == {
        "output": {"put_url": "[redacted]", "object_key": "incoming/x"},
        "tries": [{"password": "[redacted]"}, None, 2.5],
    }


class JsonLog:
    """Logging set up as a service does it. ``start`` belongs into the test, which has a standard output of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def start(self) -> None:
        configure_logging("billing", SimpleNamespace(log_level="INFO", log_format="json"))

    def line(self) -> dict[str, Any]:
        (line,) = self._capsys.readouterr().out.splitlines()
        logged: dict[str, Any] = json.loads(line)
        return logged


@pytest.fixture
def json_log(capsys: pytest.CaptureFixture[str]) -> Iterator[JsonLog]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield JsonLog(capsys)
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_pool_that_is_closed_says_nothing(json_log: JsonLog, capsys: pytest.CaptureFixture[str]) -> None:
    json_log.start()
    FairPool(Mock()).dispose()
    assert capsys.readouterr().out == ""


def test_a_log_line_is_json_with_service_level_event_and_ids(json_log: JsonLog) -> None:
    json_log.start()
    configure_tracing("billing", settings())
    with span("work", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        assert current_trace_id() == "0af7651916cd43dd8448eb211c80319c"
        with structlog.contextvars.bound_contextvars(correlation_id="018f"):
            structlog.get_logger("billing.handlers").info("credits_reserved", amount_credits=10)
    line = json_log.line()
    assert (
        line.items()
        >= {
            "service": "billing",
            "level": "info",
            "event": "credits_reserved",
            "amount_credits": 10,
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "correlation_id": "018f",
        }.items()
    )


def test_a_library_that_logs_the_standard_way_is_json_and_redacted_too(json_log: JsonLog) -> None:
    json_log.start()
    logging.getLogger("some.library").warning("cannot reach %s", "https://u:hunter22@host/", extra={"token": "t0k3n"})
    line = json_log.line()
    assert line["service"] == "billing"
    assert line["token"] == "[redacted]"
    assert "hunter22" not in json.dumps(line)


def test_a_secret_inside_an_exception_is_redacted(json_log: JsonLog) -> None:
    json_log.start()
    error = RuntimeError("PUT https://r2/x?X-Amz-Signature=deadbeef failed")
    structlog.get_logger("x").error("upload_failed", exc_info=error)
    line = json_log.line()
    assert "RuntimeError" in line["exception"]
    assert "deadbeef" not in line["exception"]
