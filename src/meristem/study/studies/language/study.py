"""The study and its scales."""

from __future__ import annotations

from meristem.study.studies.language.arms import Size, arms
from meristem.study.studies.language.claims import claims
from meristem.study.study import Measure, Study

STUDY = Study(
    name="language",
    title="A language model that grows in width and depth",
    question=(
        "How many operations does a small GPT over characters save by growing, against the same final net from "
        "scratch, until it reaches that net's loss?"
    ),
    paper=(
        "Wang et al., LiGO, ICLR 2023, arXiv 2303.00980; Chen et al., bert2BERT, ACL 2022, arXiv 2110.07143; Du et "
        "al., Stacking Your Transformers, NeurIPS 2024, arXiv 2405.15319; Samragh et al., HyperCloning, arXiv "
        "2409.12903"
    ),
    scales={
        "smoke": Size(
            seeds=2,
            data=None,
            small=(1, 8),
            final=(2, 16),
            at=0.3,
            steps=8,
            target=2.0,
            learned={"steps": 2},
            settings={"context": 8, "head": 4, "batch": 2, "warm_up": 2, "looks": 4, "windows": 8, "limit": 1.0},
        ),
        "cpu": Size(
            seeds=5,
            data="tinyshakespeare",
            small=(2, 32),
            final=(4, 64),
            at=0.3,
            steps=800,
            target=1.969,
            learned={"steps": 40},
            settings={"context": 32, "head": 8, "batch": 16, "rate": 8e-3, "average": 0.99},
        ),
        "full": Size(
            seeds=5,
            data="tinyshakespeare",
            small=(3, 96),
            final=(6, 192),
            at=0.3,
            steps=10_000,
            target=1.5,
            learned={"steps": 100},
            settings={
                "context": 128,
                "head": 16,
                "batch": 32,
                "rate": 2e-3,
                "average": 0.995,
                "windows": 256,
                "device": "cuda",
            },
        ),
    },
    arms=arms,
    claims=claims,
    measures=(
        Measure("FLOPs saved", "operations saved until the target, of the budget", percent=True),
        Measure("reached", "runs that reached it", percent=True),
        Measure("seconds to target"),
        Measure("final loss", "test loss when the budget is spent"),
        Measure("loss before birth"),
        Measure("loss at birth"),
        Measure("flops", "operations"),
    ),
    course=Measure("test loss", "test loss, nats a character"),
    notes=(
        "The budget is what so many steps of the final net cost, 2 operations a multiply-add, forward and backward; "
        "all arms spend the same, those of growth included. Operations to target: what was spent when the loss of a "
        "net of the final shape (of the small one where it never grows) first was at most the target, the loss of "
        "the net from scratch once its budget is spent, which a run with seed 0 gave; claims compare with what the "
        "net from scratch itself took, seed by seed. Runs go on to 1.3 budgets where they have not reached it; "
        "`reached` says how many did, and the others count with all that they spent. Losses are those of a running "
        "average of the weights, on 64 windows of the test part, so that any two points of a course may be "
        "compared. The learning rate is 0.008 in all arms, constant after 100 steps of warm-up, at first and after "
        "growth (but in one arm). In trials with seed 0 the net from scratch ended at 1.969 with it, at 2.009 with "
        "0.004, 1.994 with 0.012 and 1.983 with a halving at 60 % of the budget; the grown net of the arm that is ours "
        "was at 1.934 at 75 % of the budget, with half the rate after growth at 1.924. After LiGO "
        "the average begins anew. Where nets grow matters: until then a smaller net learns at a fraction of the "
        "cost, so where it comes near the target before it grows, the savings are those of the small net, and "
        "growth only has to keep them; what the small net alone takes to the target is tested beside what growth "
        "takes. At equal seconds: seed by seed, where the run ends that ends first, the other's loss between two "
        "looks. The net from scratch stops once it has reached the target, which is before the grown one has spent "
        "its operations, so that what it would have been at that second is not known. At these "
        "budgets the final net from scratch is far from convergence and a net that stays small may be better for all "
        "that is spent; what growth gives is a net of the final shape. "
        "Papers that start from a pretrained small net count its cost as nothing; here it counts. Seconds of LiGO "
        "are longer than they would be if its operations were not counted one by one."
    ),
)
