"""The whole job against Torch-Pruning's: `python -m benchmarks.job`. Trace, prune half by magnitude, commit.

Wall time and peak extra memory, one thread, fresh models, both sides taking turns.
"""

from __future__ import annotations

from benchmarks.pair import compare, options, write

MODELS = ("resnet18", "resnet50", "densenet121", "bert_base", "vit_base", "llama_134m")


def main() -> None:
    """Measure and write results/job.json."""
    chosen = options(__doc__)
    rows = compare("job", chosen.models or MODELS, chosen.peer_python, min(chosen.rounds, 3))
    if not chosen.models:
        write("job", rows)


if __name__ == "__main__":
    main()
