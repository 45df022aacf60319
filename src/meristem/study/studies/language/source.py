"""Where characters come from: a real text, or one that is made up of words that follow one another by chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.train.data import Text

LETTERS = "abcdefgh "
WORDS = 24
"""Different words in a made up text; any word is followed by one of a few others."""


def made_up(characters: int = 20_000) -> Text:
    """A text of words of 2 to 5 letters, each followed by one of three; always the same. A tenth of it is for tests."""
    draw = torch.Generator().manual_seed(0)
    space = len(LETTERS) - 1
    words = [
        [*torch.randint(space, (int(torch.randint(2, 6, (), generator=draw)),), generator=draw).tolist(), space]
        for _ in range(WORDS)
    ]
    after = torch.randint(WORDS, (WORDS, 3), generator=draw).tolist()
    choices = torch.randint(3, (characters,), generator=draw).tolist()
    found: list[int] = []
    word = 0
    while len(found) < characters:
        word = after[word][choices[len(found)]]
        found += words[word]
    tokens = torch.tensor(found[:characters])
    cut = characters * 9 // 10
    return Text("made up", tokens[:cut].clone(), tokens[cut:].clone(), LETTERS)


@dataclass(frozen=True)
class Windows:
    """Windows of a text, each with the characters that follow its own.

    Attributes:
        tokens: int64, (characters,).
        context: characters of a window.
    """

    tokens: Tensor
    context: int

    def drawn(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Windows from anywhere: inputs and targets, shape (count, context)."""
        return self._at(torch.randint(len(self.tokens) - self.context, (count,), generator=draw))

    def spread(self, count: int) -> tuple[Tensor, Tensor]:
        """Windows at even distances from the beginning to the end."""
        return self._at(torch.linspace(0, len(self.tokens) - self.context - 1, count).long())

    def _at(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        places = (starts[:, None] + torch.arange(self.context)).to(self.tokens.device)
        return self.tokens[places], self.tokens[places + 1]
