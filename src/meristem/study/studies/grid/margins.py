"""What counts as a difference, and whose claims are tested."""

from __future__ import annotations

POINT = 0.02
"""Two points of accuracy: the smallest difference that matters here."""

HARM = 0.05
"""The smallest difference of the loss that matters here: about half of what a tenth of the training gains."""

THEIRS, OURS = "the Darmstadt project", "not theirs"
