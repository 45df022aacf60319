"""Optional packages that the tests of this folder run in earnest."""

from importlib.util import find_spec
from types import ModuleType

import pytest

from tests.zoo import torchvision_stub


def optional(name: str) -> ModuleType:
    """A package, or a skip if it is not installed.

    Lightning and Transformers import torchvision if it is there, whether or not it fits the installed torch.
    """
    if find_spec("torchvision"):
        torchvision_stub.install()
    return pytest.importorskip(name)
