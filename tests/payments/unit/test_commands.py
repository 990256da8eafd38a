"""Commands that need no settings."""

import pytest

from payments.main import main
from payments.providers.stripe_checkout import EVENT_TYPES


def test_the_events_of_stripes_endpoint_are_printed_without_settings(capsys: pytest.CaptureFixture[str]) -> None:
    main(["stripe-events"])
    assert capsys.readouterr().out.splitlines() == list(EVENT_TYPES)
