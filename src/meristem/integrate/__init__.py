"""What helps newborns after an edit: policies for their optimizer state. One file each."""

from meristem.edit import StatePolicy, Zeros

__all__ = ["StatePolicy", "Zeros"]
