"""The command `meristem`."""

from meristem.cli.app import app

__all__ = ["app"]
