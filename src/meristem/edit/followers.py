"""What is no copy of a model, but must hear of its edits, in the same transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from meristem.edit.edit import Commit


@runtime_checkable
class Follower(Protocol):
    """What is no copy of the model, but must hear of every edit: the masks of single weights, say."""

    def after(self, commit: Commit) -> None:
        """Take in an edit that has just been done: the last part of its transaction.

        If that fails, or is interrupted, the edit is taken back, and so is what this object remembers: its attributes,
        dicts, lists and sets in them, and followers that it is made of. Tensors among them are to be replaced, not
        written to.
        """
        ...


@dataclass(frozen=True, eq=False)
class Told:
    """A step of the transaction: one follower is told.

    Attributes:
        follower: who.
        commit: of what.
        before: the dicts, lists and sets in which it remembers anything, and what was in each.
    """

    follower: Follower
    commit: Commit
    before: tuple[tuple[Any, Any], ...]

    @classmethod
    def each(cls, followers: Iterable[Follower], commit: Commit) -> Iterator[Told]:
        """One after another: what each remembers is looked at right before it is told."""
        for follower in followers:
            found: dict[int, Any] = {}
            _collect(follower, found)
            yield cls(follower, commit, tuple((container, container.copy()) for container in found.values()))

    def do(self) -> None:
        """Tell it."""
        self.follower.after(self.commit)

    def undo(self) -> None:
        """Make it remember what it did before."""
        for container, content in self.before:
            if isinstance(container, list):
                container[:] = content
            else:
                container.clear()
                container.update(content)


def _collect(value: Any, found: dict[int, Any]) -> None:
    """All containers of a follower that can change, by identity."""
    if isinstance(value, Follower):
        value = getattr(value, "__dict__", {})
    if isinstance(value, (dict, list, set)) and id(value) not in found:
        found[id(value)] = value
    elif not isinstance(value, tuple):
        return
    for entry in value.values() if isinstance(value, dict) else value:
        _collect(entry, found)
