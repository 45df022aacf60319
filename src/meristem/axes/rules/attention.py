"""Scaled dot-product attention: q and k share the head size, v has its own; heads are batch dimensions."""

from __future__ import annotations

from meristem.axes.context import Context, broadcast
from meristem.axes.expression import Product
from meristem.axes.map import Coupling
from meristem.axes.rules.registry import rule
from meristem.axes.solution import Value


@rule("scaled_dot_product_attention")
def attention(c: Context) -> list[Value]:
    """`softmax(q @ k.T * scale + mask) @ v`: heads are batch dimensions, positions of k and v compete."""
    q, k, v = (c.value(c.argument(i, n)) for i, n in enumerate(("query", "key", "value")))
    mask = c.optional(c.argument(3, "attn_mask"))
    head_size, value_size = q.dims[-1], v.dims[-1]
    c.unify(head_size, k.dims[-1])
    c.unify(k.dims[-2], v.dims[-2])
    c.couple(head_size, Coupling.BILINEAR)
    if c.argument(6, "scale") is None:
        c.couple(head_size, Coupling.SCALED)
    c.couple(k.dims[-2], Coupling.SOFTMAX)
    c.alike(head_size, value_size)
    lead_kv = broadcast(c, [Value(k.dims[:-2]), Value(v.dims[:-2])])
    if c.argument(7, "enable_gqa", False):
        lead_kv[-1] = _grouped_heads(c, q, k)
    lead = broadcast(c, [Value(q.dims[:-2]), Value(tuple(lead_kv))])
    if mask is not None:
        broadcast(c, [Value((*lead, q.dims[-2], k.dims[-2])), mask])
        c.carry(mask, 0.0)
        c.meets_activation(mask)
    for heads in q.dims[-3:-2]:
        c.kind(heads, "heads")
    c.kind(head_size, "head size")
    c.kind(value_size, "head size")
    c.operations(*lead, q.dims[-2], k.dims[-2], head_size)
    c.operations(*lead, q.dims[-2], k.dims[-2], value_size)
    return [c.derived([*lead, q.dims[-2], value_size], [q, k, v])]


def _grouped_heads(c: Context, q: Value, k: Value) -> Product:
    """Each key-value head serves the same number of consecutive query heads."""
    repeat = c.fresh(c.space.size(q.dims[-3]) // c.space.size(k.dims[-3]))
    heads = Product((k.dims[-3], repeat))
    c.unify(q.dims[-3], heads)
    return heads
