"""Recurrent layers: each weight stacks the gates, gates * hidden."""

from __future__ import annotations

from meristem.axes.context import Context
from meristem.axes.expression import Concat, Expression, Product
from meristem.axes.map import Role
from meristem.axes.rules.registry import rule
from meristem.axes.solution import Value
from meristem.axes.space import concat

GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(c: Context) -> list[Value]:
    """`op(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)`, or packed:
    `op(data, batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional)`."""
    packed = c.call.operator._overloadname == "data"
    shift = 1 if packed else 0
    x = c.value(c.call.args[0])
    states = c.call.args[1 + shift]
    states = [c.value(s) for s in (states if isinstance(states, (list, tuple)) else [states])]
    weights = [c.value(w) for w in c.call.args[2 + shift]]
    biased, layers = c.call.args[3 + shift], c.call.args[4 + shift]
    directions = 2 if c.call.args[7 + shift] else 1
    each = len(weights) // (layers * directions)
    projected = each == (5 if biased else 3)
    inputs, hidden_out = x.dims[-1], states[0].dims[-1]
    c.fact("input_size", inputs)
    for layer in range(layers):
        for direction in range(directions):
            start = (layer * directions + direction) * each
            _cell(c, weights[start : start + each], inputs, hidden_out, states, biased, projected)
        inputs = concat([hidden_out] * directions)
    c.fact("proj_size" if projected else "hidden_size", hidden_out)
    c.kind(hidden_out, "hidden")
    lead = list(x.dims[:-1])
    out = Value((*lead, Concat((hidden_out,) * directions) if directions > 1 else hidden_out))
    return [out, *(Value(state.dims) for state in states)][: len(c.call.outputs)]


def _cell(
    c: Context,
    weights: list[Value],
    inputs: Expression,
    hidden_out: Expression,
    states: list[Value],
    biased: bool,
    projected: bool,
) -> None:
    gates = c.space.axis(GATES[c.call.name], "the gates of a recurrent layer")
    from_input, from_hidden = weights[0], weights[1]
    cell = states[1].dims[-1] if len(states) > 1 else hidden_out
    rows = Product((gates, cell))
    for weight, reads in ((from_input, inputs), (from_hidden, hidden_out)):
        c.unify(weight.dims[0], rows)
        c.unify(weight.dims[1], reads)
        c.mark(weight, 0, Role.PRODUCES)
        c.mark(weight, 1, Role.READS)
        c.operations(*_lead(c), rows, reads)
    for bias in weights[2:4] if biased else []:
        c.unify(bias.dims[0], rows)
        c.carry(bias, 0.0)
    if projected:
        c.unify(weights[-1].dims[0], hidden_out)
        c.unify(weights[-1].dims[1], cell)
        c.mark(weights[-1], 0, Role.PRODUCES)
        c.mark(weights[-1], 1, Role.READS)
        c.operations(*_lead(c), hidden_out, cell)
        c.differ(cell, hidden_out)
        c.fact("hidden_size", cell)
        c.kind(cell, "hidden")


def _lead(c: Context) -> tuple[Expression, ...]:
    return c.value(c.call.args[0]).dims[:-1]
