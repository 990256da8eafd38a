"""What tests share: real servers, databases cloned from migrated templates, and waiting for conditions."""

from tests.support.waiting import eventually

__all__ = ["eventually"]
