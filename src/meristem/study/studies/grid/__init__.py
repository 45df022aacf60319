"""The grid of the Darmstadt project, and the field's common benchmark: VGG-11 that grows, shrinks or keeps its size."""

from __future__ import annotations

from meristem.study.studies.grid.arms import arms, submitted
from meristem.study.studies.grid.claims import claims
from meristem.study.studies.grid.contender import Contender, Controlled, Setting
from meristem.study.studies.grid.settings import PROTOCOL, SCALES, Size
from meristem.study.studies.grid.submission import Submission
from meristem.study.study import Measure, Study

__all__ = ["PROTOCOL", "STUDY", "Contender", "Controlled", "Setting", "Submission"]

STUDY: Study[Size] = Study(
    name="grid",
    title="Growing and pruning VGG-11: the grid, and a common benchmark",
    question=(
        "Methods that grow and prune, alone and together, at four levels of structure, with and without batch "
        "normalization: what do their edits do to the loss, at once and in the long run, and where do nets end?"
    ),
    paper=(
        "Frels, StructureAdaptionFramework (2023), and the grid of the project at TU Darmstadt that it comes from; "
        "Evci et al., GradMax, arXiv 2201.05125; Wu et al., Firefly, arXiv 2102.08574"
    ),
    scales=SCALES,
    arms=arms,
    claims=claims,
    submitted=submitted,
    measures=(
        Measure("final accuracy", percent=True),
        Measure("mean accuracy", "accuracy over training", percent=True),
        Measure("jump", "loss jumps at edits, sum"),
        Measure("evaluation jump", "the same in eval mode"),
        Measure("damage", "lasting damage"),
        Measure("final loss", "training loss in the end"),
        Measure("size", "size"),
        Measure("forward flops", "FLOPs of one image"),
    ),
    notes=(
        f"Protocol {PROTOCOL}. Loss jumps: how the loss on 128 training images changes by edits alone, in train mode, "
        "and in eval mode with running statistics. Lasting damage: by how much the training loss is higher, a tenth of "
        "the training after an edit, than that of a twin: a copy of net and optimizer that was not edited then and "
        "learnt from the same batches; every other edit of the fixed schedule has a twin, and whatever is edited in "
        "between counts. Size: parameters that are there in the end, as a share of those with which the contest ends. "
        "Fixed schedule: edits after 20, 30, 40 and 50 % of the training; channels go from half to full width, back, "
        "or stay; where channels both die and are born, an eighth of them more does, of layers and branches one. "
        "Layers: the four convolutions that keep the number of channels; cells: a second convolution beside each of "
        "them, before the batch normalization that both share; normalized cells: each with one of its own, and the sum "
        "behind them; weights: from a quarter to all of them. 'BN' without 'safe': newborns as published, as if there "
        "were no batch normalization. 'safe': nothing reads newborns at first, GradMax from the other side (fan-in "
        "along the right singular vectors), running statistics from newborns' own batches; for Firefly a gate that "
        "opens. 'other side', 'own statistics': either half of safe GradMax alone. Mitosis copies, so both are one. "
        "Layers and branches by GradMax, GradMax-Opt and Firefly: residual branches that are born empty and whose "
        "hidden units the method makes, as many as give the weights of one convolution; of Firefly's new units twice "
        "as many compete as are wanted, and it takes the place where the units that it keeps promise most, while the "
        "others come in the order of the net. For them 'safe' is the other side alone, and Firefly has no gate. "
        "GradMax makes at most as many units as the candidate gradient has rank, which is less than the classes where "
        "only the head follows and an image has become one pixel, so its nets end smaller. Own schedules: GradMax's of "
        "its code; two rounds for Firefly; one removal halfway and fine-tuning for L1 and polarization; early growth "
        "for Mitosis. Where one method grows and another prunes, each keeps to its own schedule, side by side; as many "
        "channels are born and die in all as on the fixed one, but deaths come at once, so that a net that has grown "
        "by then is for a while larger than at either end. There Firefly is asked to double some layers, and gives "
        "fewer. Layers: random ones by AutoGrow's fast driver, one every twentieth of the training; residual ones by "
        "its other one, when the loss has fallen by less than 0.05 in a tenth of the training, until one does not "
        "help, so that the net may end smaller; identity layers, and branches, all at once when the net has learned "
        "without them for a quarter of the training. Where they also die, one removal halfway takes half of the four. "
        "Layers and branches whose units a growth method makes: in equal portions at GradMax's times, or in Firefly's "
        "two rounds; where others die, one removal halfway beside that, with as many births and deaths in all as on "
        "the fixed schedule, so that until then two may be at one place, where deaths come first. Copies and random "
        "branches in pairs of growing and shrinking size: likewise, all newborns after a quarter of the training. "
        "Weights: growth along RigL's half cosine with exchanges that shrink along it, deaths along the cubic curve of "
        "gradual magnitude; what has a name (RigL, SET, GradualMagnitude, GraNet) has its own schedule. Claims about "
        "own schedules of pairs, layers, cells and weights are about those with batch normalization, safe where there "
        "is a choice; the other forms have fewer seeds. Published GradMax gives newborns a shift of 1e-6 behind batch "
        "normalization, so that ReLU lets their gradient through. At the scale `cpu` nets see 200 batches; without "
        "batch normalization they have barely begun to learn by then, and what is said of them is said of that "
        "beginning. Polarization judges a branch by the scales of its own batch normalization, so its nets have "
        "normalized cells; no claim is about these. A branch whose units a growth method makes has such scales between "
        "its two convolutions; those of a silent copy begin at zero, so that it is the next to die as long as they are "
        "small. Not there, because not defined: polarization without batch normalization, for branches that share one, "
        "and for single weights. A net may end smaller than its contest allows where a method gives fewer newborns "
        "than it is asked for, as GradMax and Firefly do in some pairs. The project's own numbers, its schedule and "
        "its unstructured and cell-level code were not found: schedule, sizes and turnover are ours, and L1 is that of "
        "filters (arXiv 1608.08710). GradMax-Opt and Firefly evaluate the loss fewer times than published at the scale "
        "`cpu`. The smallest difference of the loss that matters was set to 0.05 when the first seed had been seen; "
        "before it was 0.02, which five seeds could hardly have decided. Claims about layers, branches, weights and "
        "own schedules were written when two seeds of the fixed schedule were known; what Firefly is asked for in "
        "pairs on its own schedule was changed when two seeds had shown that it was more than there are candidates "
        "for. Claims about pairs one by one were written when all their runs were known, those about units of layers "
        "and branches and about either half of safe GradMax before theirs."
    ),
)
