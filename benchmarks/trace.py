"""Tracing against Torch-Pruning's dependency graph, and how it grows with depth: `python -m benchmarks.trace`."""

from __future__ import annotations

from benchmarks.pair import compare, options, write

MODELS = ("resnet50", "vit_base", "bert_base", "llama_134m")
DEPTHS = (12, 24, 48, 96)


def main() -> None:
    """Measure and write results/trace.json."""
    chosen = options(__doc__)
    side_by_side = compare("trace", chosen.models or MODELS, chosen.peer_python, chosen.rounds)
    if chosen.models:
        return
    deep = compare("trace", [f"bert_{layers}_layers" for layers in DEPTHS], None, 2)
    depth = [
        {"layers": layers, "seconds": row["ours"].get("seconds"), "per_layer": per_layer(row["ours"], layers)}
        for layers, row in zip(DEPTHS, deep, strict=True)
    ]
    write("trace", {"side_by_side": side_by_side, "depth": depth})


def per_layer(found: dict[str, float], layers: int) -> float | None:
    """Seconds for each layer: constant if the cost is linear."""
    return round(found["seconds"] / layers, 5) if "seconds" in found else None


if __name__ == "__main__":
    main()
