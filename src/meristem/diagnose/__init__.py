"""What became of newborns: how active they are and how much gradient reaches them, beside incumbents."""

from meristem.diagnose.parity import Parity, log_parity, newborns, parity
from meristem.signals import Activity, UnitActivity, activation_frequency, gradient_size

__all__ = [
    "Activity",
    "Parity",
    "UnitActivity",
    "activation_frequency",
    "gradient_size",
    "log_parity",
    "newborns",
    "parity",
]
