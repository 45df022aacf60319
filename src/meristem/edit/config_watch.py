"""Whether a model's configuration still describes it after an edit of its module tree."""

from __future__ import annotations

from torch import nn

from meristem.axes.map import AxisMap
from meristem.edit.config_models import EditedPlan, built_from, configuration, differing, shapes_of
from meristem.errors import EditError


class ConfigurationWarning(UserWarning):
    """A model's configuration does not describe it: what is saved with it is loaded into another model."""


def described(model: nn.Module) -> bool:
    """Whether the model's class builds a model with the same parameters, by name, from its `config`. Their shapes may
    differ: `fit_config` is for them."""
    config = configuration(model)
    if config is None:
        return False
    try:
        return shapes_of(built_from(config, type(model))).keys() == shapes_of(model).keys()
    except EditError:  # it is built from something else
        return False


def undescribed(axes: AxisMap) -> str | None:
    """Why the `config` of an edited model does not describe it, or None if it does.

    What counts is what counts for `fit_config`: the shapes of all parameters and of all tensors that runs on the map's
    examples make, and the fractions that operators are given; of a model that cannot be run without numbers in its
    tensors, the parameters.
    """
    plan, config = EditedPlan(axes, type(axes.model)), configuration(axes.model)
    try:
        reason = differing(plan.sizes(None), plan.sizes(config))
    except EditError:
        try:
            reason = differing(plan.shapes(None), plan.shapes(config))
        except EditError as error:
            reason = str(error)
    if not reason:
        return None
    return (
        f"the {type(config).__name__} of this {type(axes.model).__name__} describes another model now: {reason}. Saved "
        "with it, `save_pretrained` say, this one would not come back: bring it up to date with "
        "meristem.edit.fit_config(axes), or save the model with meristem.save if that refuses"
    )
