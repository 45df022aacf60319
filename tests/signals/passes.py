"""Small models, one training step of them, and what newborns inserted by hand would get."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from meristem.axes import AxisMap, trace
from meristem.signals import Directions, Recorder, SecondMoment, Statistic
from meristem.signals.activations import Activations
from meristem.signals.batch import Batch
from meristem.signals.listener import Listener


def mlp(activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 4), activation(), nn.Linear(4, 3))


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 3),
    )


def built(
    make: Callable[[], nn.Module], shape: tuple[int, ...], dtype=torch.float64
) -> tuple[nn.Module, Tensor, AxisMap]:
    """A model, an input and the map."""
    torch.manual_seed(0)
    model = make().to(dtype)
    x = torch.randn(shape, dtype=dtype)
    return model, x, trace(model, x)


def loss_of(y: Tensor) -> Tensor:
    """A mean loss that is not symmetric in anything."""
    return (torch.sin(y.flatten(1)) + y.flatten(1) ** 2).sum(1).mean()


def recorded(axes: AxisMap, statistics: Iterable[Statistic], step: Callable[[], object], **settings) -> dict:
    """The statistics of one closing step."""
    recorder = Recorder(axes, statistics, **settings)
    recorder.closing()
    step()
    return dict(recorder.finish())


def everything(axes: AxisMap, name: str) -> tuple[Statistic, ...]:
    """One of each of the plain statistics of an axis."""
    return SecondMoment(name), Activations(name), Directions(name, 2)


def heard(axes: AxisMap, name: str, step: Callable[[], object], **settings) -> list[Batch]:
    """All batches of an axis that a step gives."""
    batches: list[Batch] = []
    listener = Listener(axes, [axes.by_name[name]], lambda _, batch: batches.append(batch), **settings)
    try:
        step()
    finally:
        listener.close()
    return batches


def inserted_gradient(
    model: nn.Module, first: str, second: str, loss: Callable[[nn.Module], Tensor], middle=None
) -> Tensor:
    """M by brute force for linear or convolutional layers: d loss / d (outgoing, incoming) of one newborn, at zero.

    Shape (fan-out, fan-in + 1); the newborn's activation function has derivative 1.
    """
    model = copy.deepcopy(model)
    producer, consumer = model.get_submodule(first), model.get_submodule(second)
    incoming = torch.zeros(producer.weight[:1].numel() + 1, dtype=torch.float64, requires_grad=True)
    outgoing = torch.zeros(consumer.weight[:, :1].shape, dtype=torch.float64, requires_grad=True)
    state: dict[str, Tensor] = {}

    def contract(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(x, weight, bias)
        return nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)

    def before(layer, args, result):
        state["z"] = contract(layer, args[0], incoming[:-1].reshape(layer.weight[:1].shape), incoming[-1:])

    def after(layer, args, result):
        return result + contract(layer, state["z"], outgoing, None)

    producer.register_forward_hook(before)
    consumer.register_forward_hook(after)
    (gradient,) = torch.autograd.grad(loss(model), outgoing, create_graph=True)
    rows = [torch.autograd.grad(entry, incoming, retain_graph=True)[0] for entry in gradient.flatten()]
    return torch.stack(rows)
