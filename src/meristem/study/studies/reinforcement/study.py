"""The study: arms, claims and scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meristem.study.claim import Claim, Test
from meristem.study.comparisons import Above, Equivalent, Greater
from meristem.study.studies.bottleneck.comparisons import NotWorse
from meristem.study.studies.reinforcement.learn import Learn
from meristem.study.studies.reinforcement.width import Change, Grown, Pruned, Renewed
from meristem.study.study import Arm, Measure, Scale, Study

METHODS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "random": ("Random", {}, "newborns with random fan-in and fan-out"),
    "Net2Wider": ("Net2Wider", {"noise": 0.01}, "copies of incumbents, with a little noise"),
    "Mitosis": ("Mitosis", {}, "the busiest units divide, which is `early_growth` (ours)"),
}
"""By label: class in `meristem.grow`, settings, what it does."""

SMALL, LARGE, REDO, PRUNED = "small", "large", "large with ReDo", "pruned"


@dataclass(frozen=True)
class Size(Scale):
    """How large everything is.

    Attributes:
        worlds: by name of an environment the return that shows that something has been learnt, the smallest difference
            of returns that matters, and settings.
        widths: units of a hidden layer, of the small and of the large net.
        settings: of all runs.
    """

    worlds: Mapping[str, tuple[float, float, Mapping[str, Any]]] = field(hash=False)
    widths: tuple[int, int] = (32, 128)
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)


def arms(size: Size) -> Sequence[Arm]:
    """For each environment: fixed nets, growth, turnover and pruning."""
    return [arm for world in size.worlds for arm in _arms(size, world)]


def _arms(size: Size, world: str) -> list[Arm]:
    small, large = size.widths

    def arm(label: str, description: str, width: int, change: Change | None = None) -> Arm:
        config = Learn(**{"world": world, "width": width, "change": change, **size.settings, **size.worlds[world][2]})
        return Arm(at(label, world), description, config, group=world)

    return [
        arm(SMALL, f"two layers of {small} units", small),
        arm(LARGE, f"two layers of {large} units", large),
        *(
            arm(
                grown(label),
                f"grown from {small} to {large} units a layer: {what}",
                small,
                Grown(to=large, method=method, options=dict(options)),
            )
            for label, (method, options, what) in METHODS.items()
        ),
        arm(REDO, f"{large} units a layer, of which dormant ones begin anew", large, Renewed()),
        arm(PRUNED, f"from {large} to {small} units a layer, by Taylor's criterion", large, Pruned(to=small)),
    ]


def grown(method: str) -> str:
    """The label of a net that grows."""
    return f"grown by {method}"


def at(label: str, world: str) -> str:
    """The name of an arm."""
    return f"{label}, {world}"


def claims(size: Size) -> Sequence[Claim]:
    """First that there is something to learn and that it is learnt; then what width and its changes are worth."""

    def each(test: Any, metric: str, first: str, second: str, share: float = 1.0) -> list[Test]:
        return [
            test(metric, at(first, world), at(second, world), margin=share * margin)
            for world, (_, margin, _) in size.worlds.items()
        ]

    def dormant(test: Any, first: str, second: str, margin: float) -> list[Test]:
        return [test("mean dormant", at(first, w), at(second, w), margin=margin) for w in size.worlds]

    return [
        Claim(
            "The large net learns.",
            [Above("mean return", at(LARGE, w), level, margin) for w, (level, margin, _) in size.worlds.items()],
        ),
        Claim(
            "Width matters: over the training, the large net has a higher return than the small one.",
            each(Greater, "mean return", LARGE, SMALL),
        ),
        *(
            Claim(
                f"Growth ({label}) ends with a return that is not lower than the large net's.",
                each(NotWorse, "final return", grown(label), LARGE),
            )
            for label in METHODS
        ),
        *(
            Claim(
                f"Growth ({label}) has a higher return over the training than the small net that it begins as.",
                each(Greater, "mean return", grown(label), SMALL),
            )
            for label in METHODS
        ),
        Claim(
            "Growing nets have fewer dormant units than the large net.",
            [test for label in METHODS for test in dormant(Greater, LARGE, grown(label), 0.02)],
        ),
        Claim(
            "ReDo leaves fewer units dormant.",
            dormant(Greater, LARGE, REDO, 0.02),
            "Sokar, Agarwal, Castro, Evci, arXiv 2302.12902",
        ),
        Claim(
            "ReDo makes the return higher over the training.",
            each(Greater, "mean return", REDO, LARGE),
            "Sokar, Agarwal, Castro, Evci, arXiv 2302.12902, on Atari",
        ),
        Claim(
            "A net that is pruned while it learns keeps the return of the large one.",
            each(NotWorse, "final return", PRUNED, LARGE),
        ),
        Claim(
            "How it grows hardly matters for the return in the end: Mitosis and random growth are alike.",
            each(Equivalent, "final return", grown("Mitosis"), grown("random")),
        ),
    ]


STUDY = Study(
    name="reinforcement",
    title="Q-learning with a net that changes its width",
    question=(
        "Can the net of a deep Q-learner grow, shrink or renew its units while it learns, without losing return, and "
        "what becomes of dormant units?"
    ),
    scales={
        "smoke": Size(
            seeds=2,
            worlds={"CartPole-v1": (20.0, 10.0, {"repeat": 2})},
            widths=(4, 8),
            settings={"updates": 60, "begin": 20, "batch_size": 8, "evaluations": 2, "episodes": 2},
        ),
        "cpu": Size(seeds=8, worlds={"CartPole-v1": (100.0, 40.0, {}), "Acrobot-v1": (-400.0, 40.0, {"repeat": 4})}),
        "full": Size(
            seeds=30,
            worlds={"CartPole-v1": (200.0, 25.0, {}), "Acrobot-v1": (-150.0, 15.0, {"repeat": 4})},
            widths=(16, 256),
            settings={"updates": 25000, "capacity": 100000, "pace": 0.004, "explore": 0.2}
            | {"evaluations": 50, "episodes": 20},
        ),
    },
    arms=arms,
    claims=claims,
    measures=(
        Measure("final return"),
        Measure("mean return", "return over training"),
        Measure("final dormant", "dormant units at the end", percent=True),
        Measure("mean dormant", "dormant units over training", percent=True),
    ),
    course=Measure("return", "return of an episode"),
    notes=(
        "Double Q-learning with uniform replay, epsilon-greedy actions, Huber's loss and Adam; the copy of the net "
        "that gives the targets follows it slowly, and follows every edit; newborns have step counts of their own. "
        "Four environments run side by side, with one action each before every optimizer step; in Acrobot-v1 every "
        "action is taken four times in a row, since otherwise hardly anything is learnt in so few steps. The return "
        "is that of episodes from the same beginnings at every look, with 5 % random actions. It varies much from "
        "look to look and from seed to seed, as deep Q-learning does, so that the return over the training says more "
        "than that at the end; margins are 40 at cpu scale, where the return goes from about 10 to 500 in CartPole-v1 "
        "and from -500 to about -90 in Acrobot-v1. At cpu scale there are 2,000 optimizer steps, which are few: "
        "nothing is solved for good. Settings were chosen such that the large fixed net learns, by looking at a run "
        "or two; nothing was tuned for the others. Units are dormant at tau = 0.1 of ReDo's definition, on 512 "
        "remembered observations; ReDo looks for them ten times in a run. Operations are those of learning; those of "
        "acting (a few per cent of them) are in the seconds only. Seconds of edits are longer than they would be if "
        "their operations were not counted."
    ),
)
