"""What lies at an import path: models, methods and studies of a user's own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from meristem.errors import ConfigError


def resolve(path: str) -> Any:
    """What is at an import path `module:name`; modules in the current folder are found too.

    Raises:
        ConfigError: there is no such module or name, or the module cannot be imported: whatever it raises is in the
            message.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"{path!r} is no import path; expected module:name, such as torchvision.models:resnet18")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return found
