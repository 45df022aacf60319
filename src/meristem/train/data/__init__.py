"""Real data sets, read from the files that users have; nothing is downloaded and nothing is unpickled blindly."""

from meristem.train.data.catalogue import NAMES, load
from meristem.train.data.dataset import DataSet

__all__ = ["NAMES", "DataSet", "load"]
