"""When structure is edited, and how much of it: schedules that combine with `|` and end with `.until(...)`."""

from meristem.schedule.at import At
from meristem.schedule.every import Every
from meristem.schedule.plateau import OnPlateau
from meristem.schedule.schedule import Action, Amount, Budget, Demand, Moment, Schedule, Together, Until

__all__ = [
    "Action",
    "Amount",
    "At",
    "Budget",
    "Demand",
    "Every",
    "Moment",
    "OnPlateau",
    "Schedule",
    "Together",
    "Until",
]
