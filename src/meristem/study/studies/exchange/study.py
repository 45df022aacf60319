"""The study: what is asked, at which scales."""

from __future__ import annotations

from meristem.study.studies.exchange.arms import Bench, Size, arms
from meristem.study.studies.exchange.claims import claims
from meristem.study.study import Measure, Study

STUDY: Study[Size] = Study(
    name="exchange",
    title="Growth and pruning in one ledger",
    question=(
        "Nets that buy births of the highest predicted gain per operation and pay with deaths of the lowest predicted "
        "loss per operation: are they better than pruning alone, growth alone, both in turn, turnover, and fixed nets, "
        "at equal training operations and equal final operations?"
    ),
    paper="none: no published method trades births and deaths at several levels against each other",
    scales={
        "smoke": Size(
            seeds=1,
            benches=(Bench("Digits", "digits", (200, 100), 1, 10, (25, 7, 8), (8, 8, 9)),),
            listen=1,
            interval=0.3,
        ),
        "cpu": Size(
            seeds=5,
            benches=(
                Bench("Fashion-MNIST", "fashion_mnist", (5000, 2000), 2, 600, (28, 7, 8), (458, 388, 520)),
                Bench("CIFAR-10", "cifar10", (5000, 2000), 2, 600, (20, 5, 8), (420, 365, 525)),
            ),
        ),
        "full": Size(
            seeds=10,
            benches=(
                Bench(
                    "Fashion-MNIST", "fashion_mnist", (None, None), 1, 40_000, (144, 24, 32), (38_000, 38_000, 39_000)
                ),
                Bench("CIFAR-10", "cifar10", (None, None), 1, 60_000, (96, 32, 32), (57_000, 57_000, 58_500)),
            ),
            widths=(32, 64, 128),
            device="cuda",
        ),
    },
    arms=arms,
    claims=claims,
    course=Measure("accuracy", "test accuracy", percent=True),
    measures=(
        Measure("final accuracy", percent=True),
        Measure("mean accuracy", "accuracy over training", percent=True),
        Measure("final operations", "operations in the end"),
        Measure("training operations", "operations of training"),
        Measure("traded", "operations bought"),
    ),
    notes=(
        "A unit of operations is a forward pass of the reference net, for training three of them for every example of "
        "the reference run; operations with weights that are not there do not count, though dense hardware carries "
        "them out. Operations of the edits themselves are not in it, but in the costs, where statistics and line "
        "searches make an exchange dearer than the fixed net: at cpu scale by a fifth to two fifths, where it grows by "
        "a tenth; the arms called counted pay for that with steps, so that they cost in all about what they are "
        "compared with. All growth is by TINY with its line search, all deaths by Taylor, newborns safe until the next "
        "edit but one; growth alone and pruning alone are divided over layers per operation as well, so that the "
        "exchange differs in that births and deaths are held against each other, and in nothing else. A net of m units "
        "on average trains 1/m as many steps."
    ),
)
