"""A commit alone against copying the edited tensors once, pruning and growing: `python -m benchmarks.commit`."""

from __future__ import annotations

from benchmarks.pair import compare, options, write

MODELS = ("resnet18", "resnet50", "densenet121", "bert_base", "vit_base", "llama_134m")


def main() -> None:
    """Measure and write results/commit.json."""
    chosen = options(__doc__)
    rows = {task: compare(task, chosen.models or MODELS, None, min(chosen.rounds, 3)) for task in ("commit", "growth")}
    if not chosen.models:
        write("commit", rows)


if __name__ == "__main__":
    main()
