"""Verifications are leased work: they pass the conformance suite."""

from tests.messaging.leases.conformance import LeaseConformance
from tests.storage.integration.verifications import VerificationCase


class TestVerificationLeases(LeaseConformance):
    case = VerificationCase
