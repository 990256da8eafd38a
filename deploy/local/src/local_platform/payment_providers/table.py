"""Which emulator belongs to which payment provider."""

from collections.abc import Mapping
from typing import Final

from contracts.payments import Provider
from local_platform.payment_providers import btcpay_emulator, nowpayments_emulator, stripe_emulator
from local_platform.payment_providers.emulation import Emulation

EMULATIONS: Final[Mapping[Provider, Emulation]] = {
    "stripe": stripe_emulator.EMULATION,
    "btcpay": btcpay_emulator.EMULATION,
    "nowpayments": nowpayments_emulator.EMULATION,
}
