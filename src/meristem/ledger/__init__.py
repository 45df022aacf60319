"""The ledger: births and deaths at all levels, by what they are worth and what they cost, and their exchange."""

from meristem.ledger.account import Account
from meristem.ledger.entry import Entry, Key, Ladder, Lot
from meristem.ledger.exchange import Exchange
from meristem.ledger.layers import Layers
from meristem.ledger.market import Made, Market
from meristem.ledger.matching import match
from meristem.ledger.moves import Moves, WeightMoves
from meristem.ledger.trade import Rewiring, Trade
from meristem.ledger.units import Units
from meristem.ledger.weights import Weights

__all__ = [
    "Account",
    "Entry",
    "Exchange",
    "Key",
    "Ladder",
    "Layers",
    "Lot",
    "Made",
    "Market",
    "Moves",
    "Rewiring",
    "Trade",
    "Units",
    "WeightMoves",
    "Weights",
    "match",
]
