"""How modules depend on each other, read from their imports (also those inside functions and for types only)."""

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = {
    "rlinf": REPOSITORY,
    "libero_runtime": REPOSITORY / "LIBERO",
    "openvla_oft": REPOSITORY / "openvla-oft",
    "transformers_openvla_oft": REPOSITORY / "transformers-openvla-oft",
}
MOST_FILES = 15
A_FILE_EACH = {"rlinf/custom/methods"}
"""Folders of one file per entry of a table, which another test compares: every further method would be one too many."""

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module of ours by name."""
    found = {}
    for package, root in PACKAGES.items():
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: Iterable[str]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        found |= {name for name in names if name in known}
    return found


def cycles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Sets of nodes that lead to each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reach = {node: reached(node) for node in graph}
    return {
        frozenset(other for other in reach[node] if node in reach.get(other, set()))
        for node in graph
        if node in reach[node]
    }


@cache
def module_graph() -> tuple[Graph, dict[str, Path]]:
    known = modules()
    return {name: imports(path, known) - {name} for name, path in known.items()}, known


def folder_graph() -> Graph:
    """Folders of modules; one that imports from a folder around or inside it is no edge."""
    graph, known = module_graph()
    folders: Graph = {}
    for name, targets in graph.items():
        here = _folder(name, known)
        for there in {_folder(target, known) for target in targets}:
            if here != there and not f"{here}.".startswith(f"{there}.") and not f"{there}.".startswith(f"{here}."):
                folders.setdefault(here, set()).add(there)
    return folders


def _folder(module: str, known: Mapping[str, Path]) -> str:
    return module if known[module].name == "__init__.py" else module.rpartition(".")[0]


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {frozenset("bc")}


def test_no_modules_import_each_other() -> None:
    assert cycles(module_graph()[0]) == set()


def test_no_folders_import_each_other() -> None:
    assert cycles(folder_graph()) == set()


def test_no_folder_is_crowded() -> None:
    counts: dict[str, int] = {}
    for path in modules().values():
        folder = str(path.parent.relative_to(REPOSITORY))
        counts[folder] = counts.get(folder, 0) + 1
    assert {folder for folder, count in counts.items() if count > MOST_FILES} - A_FILE_EACH == set()


def test_bundled_packages_never_import_the_training_loop() -> None:
    graph, _ = module_graph()
    wrong = {(name, target) for name, targets in graph.items() for target in targets if target.startswith("rlinf")}
    assert not {one for one in wrong if not one[0].startswith("rlinf")}
