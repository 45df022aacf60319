"""`fit_config`: the configuration from which a model of the edited structure is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from meristem.axes import AxisMap
from meristem.axes.attributes import read, write
from meristem.edit.config_models import EditedPlan, configuration, differing
from meristem.edit.config_search import Sizes, closest, entries
from meristem.edit.journal import Journal
from meristem.edit.unshare import unshared
from meristem.errors import EditError


def fit_config(axes: AxisMap, build: Callable[[Any], nn.Module] | None = None) -> dict[str, tuple[int | None, int]]:
    """Bring a model's configuration up to date with its structure, so that a model built from it is the same.

        axes = edit.commit().axes
        meristem.edit.fit_config(axes)
        model.save_pretrained(folder)                    # and `from_pretrained(folder)` gives the edited model

    Which numbers change is found out, not looked up: where a size in the model differs from that of one built from the
    configuration, or the number of blocks in a container, numbers of the configuration, those in lists too, are changed
    in the same proportion, and kept if more sizes are right then. In the end the shapes of all parameters must be, and
    of all tensors that a run on the map's examples makes (the number of heads shows in no parameter), and the numbers
    that operators are given (an edit leaves the factor of attention as it is, a configuration computes it of the size
    of heads). Models are built on the meta device, which takes no memory.

    Args:
        axes: the map of an edited model that has a `config` from which its class is built, like those of Hugging Face.
        build: makes a model of a configuration. Default: the model's own class.

    Returns:
        what changed, old (None where nothing was said) and new, by name; names inside of nested configurations and
        lists are joined by dots.

    Raises:
        EditError: there is no configuration, no model can be built from it, or none can say what the model looks like
            (layers of different width, say), or it does not take the numbers that do. Nothing has changed then.
    """
    model = axes.model
    config = configuration(model)
    if config is None:
        raise EditError(f"{type(model).__name__} has no `config`; save the model with meristem.save")
    plan = EditedPlan(axes, type(model) if build is None else build)
    trial = _fitted(plan, config)
    changed = {path: (old, read(trial, path)) for path, old in entries(config) if read(trial, path) != old}
    copies = unshared([model], [(model, ("config", *path)) for path in changed])
    with Journal() as journal:
        journal.apply(copies.steps)
    journal.forget()
    for path, (_, new) in changed.items():
        write(copies.of(config), path, new)
    return {".".join(map(str, path)): values for path, values in changed.items()}


def _fitted(plan: EditedPlan, config: Any) -> Any:
    """A copy of the configuration, changed until all sizes are right."""
    wanted = plan.sizes(None)
    trial, found = closest(plan, config, wanted)
    if found != wanted:
        raise EditError(_inexpressible(config, wanted, found))
    _accepted(trial)
    return trial


def _accepted(config: Any) -> None:
    """Raise `EditError` if a configuration that checks its numbers together, as some do when saved, refuses them."""
    validate = getattr(config, "validate", None)
    if callable(validate):
        try:
            validate()
        except Exception as error:  # each in its own way
            said = " ".join(str(error).split()).rstrip(".")
            raise EditError(
                f"{type(config).__name__} does not take the numbers that describe this model: {said}; save the model "
                "with meristem.save"
            ) from error


def _inexpressible(config: Any, wanted: Sizes, found: Sizes) -> str:
    return (
        f"no {type(config).__name__} describes this model: {differing(wanted, found)}. A configuration has one width "
        "for all layers: edit them alike (`allocate=meristem.allocate.Alike(...)`), or save the model with "
        "meristem.save"
    )
