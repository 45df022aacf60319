"""The page on depth names everything; that its example runs is tested with all pages."""

from __future__ import annotations

from pathlib import Path

from meristem import depth


def test_every_public_name_is_on_the_page() -> None:
    text = (Path(__file__).parents[2] / "docs" / "depth.md").read_text()
    users = (
        "Insert",
        "Remove",
        "RemoveBranch",
        "Arrange",
        "AddBranch",
        "duplicated",
        "stacked",
        "interlaced",
        "upscaled",
    )
    kinds = ("Net2Deeper", "ZeroResidual", "ResidualCopy", "Silent", "AutoGrow", "AdamFit", "Plain")
    criteria = ("Gate", "BranchTaylor", "BlockInfluence", "MeasuredLoss", "removable_blocks", "removable_branches")
    controller = ("Deepen", "Shorten", "Evenly", "AtRandom", "ByGain", "predicted_gains", "cost")
    for name in (*users, *kinds, *criteria, *controller, "places"):
        assert name in depth.__all__
        assert name in text
