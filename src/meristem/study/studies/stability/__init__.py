"""Is growth the inverse of pruning? Lillo and Cheney's study, with the controls that it lacks."""

from __future__ import annotations

from meristem.study.studies.stability.arms import arms, main
from meristem.study.studies.stability.claims import claims
from meristem.study.studies.stability.settings import SCALES, Size
from meristem.study.study import Measure, Study

STUDY: Study[Size] = Study(
    name="stability",
    title="Is growth the inverse of pruning?",
    question=(
        "Nets that grow and nets that are pruned to the same number of units: where do they end, what are they worth "
        "on the way, and do newborn units get the gradient that they need?"
    ),
    paper="Lillo, Cheney, On the Stability of Growth in Structural Plasticity, arXiv 2605.15435",
    scales=SCALES,
    arms=arms,
    claims=claims,
    measures=(
        Measure("cycle accuracy", "accuracy after the last cycle", percent=True),
        Measure("TAA", "mean over the cycles (TAA)", percent=True),
        Measure("WT accuracy", "trained anew (WT)", percent=True),
        Measure("R_act early", "R_act early"),
        Measure("R_grad early", "R_grad early"),
        Measure("R_grad late", "R_grad late"),
        Measure("R_grad settled, cohorts", "R_grad after 200 steps, median cohort"),
        Measure("R_grad settled, units", "R_grad after 200 steps, median unit"),
        Measure("starved units", "newborn units with R_grad below 0.5", percent=True),
        Measure("fan-out ratio late", "fan-out ratio late"),
        Measure("unit-epochs"),
    ),
    main=list(dict.fromkeys(name for size in SCALES.values() for name in main(size))),
    notes=(
        "TAA: test accuracy averaged over the ends of the cycles. R_act and R_grad: how often newborns are active, and "
        "how large the gradients of their pre-activations are, in units of the incumbents: ratios of means, one for "
        "each cohort, which is what one edit inserted into one layer; early: a quarter of a cycle after birth, late: "
        "at its end; means over cohorts. After 200 steps: from that age on, over all looks at the net, the median over "
        "cohorts, and the median over single units (each against the mean of all older ones). The fan-out ratio "
        "explains part of R_grad. Unit-epochs: epochs in which a unit took part, over all units (all units, one epoch: "
        "1). Operations of masked nets are those that are executed, which are those of the whole net; what units that "
        "are really removed or inserted would cost is shown by Remove and Insert. Equal budgets: nothing is taken from "
        "Grow and Prune but where it is said. Early division is cut to the unit-epochs of Grow, and held against Prune "
        "with all of its own, which are more; and it is extended to the operations of Prune, where it still takes "
        "fewer unit-epochs. Prune cut to the unit-epochs of Grow is shown as well, but that is no fair way of judging "
        "it, because each of its shorter cycles begins with a rewind. Accuracy at fifths: the mean at five moments, "
        "equally far apart; TAA of more cycles begins earlier, where every net knows less. Parity and accuracy are "
        "correlated over arms that train equally long with the same activation function; each is one point, the mean "
        "over its seeds. Optional stopping: the arms by which early division to half is "
        "judged had 10 seeds at first; its lead over pruning was undecided then (p = 0.054), 19 were computed to be "
        "needed, and their number was raised to 20 after that look. So chance had two tries at p < 0.05. Derived, "
        "because the paper does not say it: a share counts units of each masked layer; what is rewound are weights and "
        "biases of hidden layers, and their momentum is emptied; SGD with momentum 0.9; He's uniform initialization; "
        "units of the first cycle are drawn at random; edits happen between cycles, the last one before the last cycle."
    ),
)
