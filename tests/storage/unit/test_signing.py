"""With which key outputs are marked, and where that is not decided, storage does not start."""

import pytest
from pydantic import ValidationError

from local_platform.marking_credentials import make_marking_credentials
from storage.settings import Settings
from storage.signing import signer_of

CREDENTIALS = make_marking_credentials()
GIVEN = {"marking_key": CREDENTIALS.key, "marking_certificates": CREDENTIALS.certificates}


def settings(**marking: str | None) -> Settings:
    names = ("database_url", "nats_url", "nats_user", "nats_password", "s3_endpoint_url")
    secrets = ("s3_access_key_id", "s3_secret_access_key")
    values = dict.fromkeys((*names, *secrets), "postgresql://unused")
    return Settings.model_validate({**values, "ops_port": 0, **marking})


@pytest.mark.parametrize(
    ("marking", "said"),
    [
        ({}, "set both, or marking=off to deliver unmarked files"),
        ({"marking_key": CREDENTIALS.key}, "set both, or marking=off to deliver unmarked files"),
        ({**GIVEN, "marking": "off"}, "marking=off contradicts"),
    ],
    ids=["nothing", "half", "both"],
)
def test_what_happens_without_a_key_must_be_decided(marking: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        settings(**marking)
    assert "PRIVATE KEY" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"marking_key": "no PEM at all"}, "is not PEM"),
        ({"marking_certificates": "no PEM at all"}, "is not PEM"),
        ({"marking_key": make_marking_credentials().key}, "must be that of marking_key"),
    ],
    ids=["no key", "no certificate", "another key"],
)
def test_a_key_that_signs_nothing_valid_is_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        signer_of(settings(**GIVEN | changes))
    assert "PRIVATE KEY" not in str(refused.value)


def test_nothing_signs_where_marking_is_off() -> None:
    assert signer_of(settings(marking="off")) is None


def test_texts_in_one_line_are_taken() -> None:
    """Some secret stores hold no line breaks."""
    in_one_line = {name: text.replace("\n", "\\n") for name, text in GIVEN.items()}
    assert signer_of(settings(**in_one_line)) is not None
