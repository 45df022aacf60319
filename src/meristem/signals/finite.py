"""Numbers from which nothing can be computed, refused where they would be decomposed."""

from __future__ import annotations

from torch import Tensor

from meristem.errors import SignalError


def require_finite(numbers: Tensor, what: str) -> Tensor:
    """The numbers, if they are all finite.

    Args:
        numbers: any shape.
        what: what they are, and of which weight or axis, for the message.

    Raises:
        SignalError: there are NaN or infinite ones among them.
    """
    finite = numbers.isfinite()
    if bool(finite.all()):
        return numbers
    nan = int(numbers.isnan().sum())
    infinite = int((~finite).sum()) - nan
    raise SignalError(
        f"expected finite numbers in {what}, got {nan} NaN and {infinite} infinite ones among {numbers.numel()}; "
        "nothing was edited. Training has diverged before this edit, or numbers are too large for their dtype: go on "
        "from an earlier checkpoint, with a lower learning rate or smaller inputs, or leave the axis out with `axes=`"
    )
