"""Nets whose code picks by number what runs between their blocks, does more in training mode, or writes in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Skip(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(torch.tanh(x))


class Blocks(nn.Module):
    """Blocks in a list, and a head."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Skip() for _ in range(blocks))
        self.head = nn.Linear(6, 3)

    def states(self, x: Tensor) -> list[Tensor]:
        """What each block returns."""
        found: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found


class Levels(Blocks):
    """The head reads two levels by their numbers, as that of a backbone with `out_indices`."""

    def forward(self, x: Tensor) -> Tensor:
        states = self.states(x)
        return self.head(torch.tanh(states[1]) * states[3])


class Penultimate(Blocks):
    """The head reads what the last block but one returns, too."""

    def forward(self, x: Tensor) -> Tensor:
        states = self.states(x)
        return self.head(torch.tanh(states[-2]) * states[-1])


class Middle(Blocks):
    """The head reads what the middle block of three returns, which is the middle one in the other order, too."""

    def __init__(self) -> None:
        super().__init__(blocks=3)

    def forward(self, x: Tensor) -> Tensor:
        states = self.states(x)
        return self.head(states[1] * states[2])


class Tapped(Blocks):
    """A module runs after the block of number 1."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number == 1:
                x = torch.tanh(self.adapter(x))
        return self.head(x)


class Last(Blocks):
    """Something happens before the last block."""

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            if number == len(self.blocks) - 1:
                x = torch.tanh(x)
            x = block(x)
        return self.head(x)


class Auxiliary(Blocks):
    """In training mode a second head reads what the block of number 1 returns."""

    def __init__(self) -> None:
        super().__init__(blocks=3)
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = self.states(x)
        result = self.head(torch.tanh(states[-1]))
        return result + torch.tanh(self.second(states[1])) if self.training else result


class Tempered(Blocks):
    """What a block does depends on its place: the code tells it."""

    class Told(Skip):
        def forward(self, x: Tensor, place: int = 0) -> Tensor:
            return x + self.layer(torch.tanh(x)) * 0.5**place

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Told() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for place, block in enumerate(self.blocks):
            x = block(x, place)
        return self.head(torch.tanh(x))


class Overwritten(nn.Module):
    """An activation in place writes over what is read later."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.activation(x)
        return self.head(self.second(y) + x)
