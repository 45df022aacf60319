"""How a model runs as it is: what rehearsals of edits are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from meristem.axes.flow import Flow, record_flow
from meristem.axes.map import Example
from meristem.depth.rehearsal import Rehearsal, in_mode, quiet
from meristem.depth.steps import ANY, GONE, LOST, Made, Source, Step
from meristem.depth.wiring import Apart, wiring

_CHANCE = Apart(chance=True)
Steps = Callable[[Flow], Sequence[Step]]


@dataclass(frozen=True, eq=False)
class Original:
    """A model and its runs, one for each example.

    Attributes:
        model: the model.
        examples: what it is run on, and in which mode.
        flows: the runs.
    """

    model: nn.Module
    examples: tuple[Example, ...]
    flows: tuple[Flow, ...]

    @property
    def flow(self) -> Flow:
        """The run on the first example."""
        return self.flows[0]

    @cached_property
    def wirings(self) -> Mapping[Flow, tuple[Step, ...]]:
        """What each run computes."""
        return {flow: wiring(flow) for flow in self.flows}

    def pairs(self, found: Rehearsal) -> Iterator[tuple[Flow, Flow]]:
        """Each run, and that with the edit in place."""
        yield from zip(self.flows, found.flows, strict=True)

    def differs(self, found: Rehearsal, expected: Steps, actual: Steps) -> str | None:
        """Where what the edited model does is not what is expected, in words, or None.

        Args:
            found: the runs with the edit in place.
            expected: the steps that the edited model must take, of a run of the model as it is.
            actual: those that it takes, of the same run with the edit in place.
        """
        for example, (before, now) in zip(self.examples, self.pairs(found), strict=True):
            reason = first_difference(expected(before), actual(now))
            if reason is not None:
                return in_mode(example, reason)
        return None


def original(model: nn.Module, examples: Sequence[Example], flow: Flow) -> Original:
    """A model on its examples, and on each in training mode, too, where it does something else then.

    What differs only in the settings of operators that draw random numbers, the probability of dropout say, is not
    something else. An example on which the model cannot be run in training mode says nothing about that.

    Args:
        model: the model.
        examples: the examples of its map.
        flow: its run on the first of them.
    """
    runs = [*zip(examples, [flow, *(record_flow(model, example) for example in examples[1:])], strict=True)]
    for (args, kwargs, training), run in [*runs]:
        trained = None if training else _trained(model, (args, kwargs, True))
        if trained is not None and wiring(run, apart=_CHANCE) != wiring(trained, apart=_CHANCE):
            runs.append(((args, kwargs, True), trained))
    return Original(model, tuple(example for example, _ in runs), tuple(run for _, run in runs))


def _trained(model: nn.Module, example: Example) -> Flow | None:
    try:
        with quiet():
            return record_flow(model, example)
    except Exception:  # whatever it is: nobody trains on such an example
        return None


def first_difference(before: Sequence[Step], after: Sequence[Step]) -> str | None:
    """Where two runs differ, in words, or None."""
    for old, new in zip(before, after, strict=False):
        if old != new:
            return _in_words(old, new)
    if len(before) != len(after):
        return "the rest of the model would run differently (another number of calls)"
    return None


def missing(expected: Sequence[Step], actual: Sequence[Step]) -> str | None:
    """Which of the expected steps is not taken, in words, or None: there may be others between them.

    What is made of what silent modules return, and reaches nothing, need not be.
    """
    numbers: dict[int, int] = {}
    position = 0

    def name(made: Made) -> Source:
        return Made(numbers[made.step], made.output) if made.step in numbers else LOST

    for number, step in enumerate(expected):
        wanted = step.renamed(name)
        found = next((place for place in range(position, len(actual)) if _is(actual[place], wanted)), None)
        if found is not None:
            numbers[number], position = found, found + 1
        elif number == len(expected) - 1 or not {GONE, LOST} & {*wanted.operands}:
            return f"the rest of the model would run differently ({_name(step)})"
    return None


def _is(step: Step, wanted: Step) -> bool:
    return (replace(step, plain=ANY) if wanted.plain is ANY else step) == wanted


def _in_words(old: Step, new: Step) -> str:
    if (old.operator, old.plain, old.shapes, old.content) == (new.operator, new.plain, new.shapes, new.content):
        return f"{_name(old)} would be given something else"
    return f"the rest of the model would run differently ({_name(old)})"


def _name(step: Step) -> str:
    return f"{step.operator} at {step.where}" if step.where else step.module or f"{step.operator}"
