"""What the expert works out once per control step, however often phases and moves ask for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, TypeVarTuple

Memory = dict[Hashable, Any]


class _Remembers(Protocol):
    @property
    def memory(self) -> Memory:
        """Emptied at the beginning of every control step."""


_Owner = TypeVar("_Owner", bound=_Remembers)
_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


def once_per_step(compute: Callable[[_Owner, *_Arguments], _Result]) -> Callable[[_Owner, *_Arguments], _Result]:
    """A function or method of the present state; callers share its result and must not write into it."""

    @functools.wraps(compute)
    def remembered(owner: _Owner, *arguments: *_Arguments) -> _Result:
        key = compute, owner, arguments
        if key not in owner.memory:
            owner.memory[key] = compute(owner, *arguments)
        result: _Result = owner.memory[key]
        return result

    return remembered
