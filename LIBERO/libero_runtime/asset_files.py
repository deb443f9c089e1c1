"""Which asset files a task needs, and which of them an assets folder lacks.

hf-libero builds file names inside the constructors of its object classes and stops at the first file that is not
there. Here the same names come from tables, so that an incomplete folder is explained at once and completely.
``python -m libero_runtime.asset_files [SUITE ...]`` lists the tasks that cannot be loaded, with what they lack.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from libero_runtime.assets.objects import GROCERIES, HOUSEHOLD, OBJECTS, SCANNED, object_path
from libero_runtime.commands import run_command
from libero_runtime.paths import DAMAGED_ADVICE, LiberoPathError, resolve_paths
from libero_runtime.suites import TaskSpec, load_suite, suite_names

_BLOCK = re.compile(r"\(:(?:fixtures|objects)\b([^()]*)\)")
_CATEGORY = re.compile(r"-\s+(\w+)")
_PROBLEM = re.compile(r"\(problem\s+(\w+)\s*\)")

# Categories of LIBERO-90 that there are no measurements of, hence no stand-ins.
_UNMEASURED: Mapping[str, str] = {
    "new_salad_dressing": GROCERIES,
    "white_bowl": SCANNED,
    "wooden_tray": HOUSEHOLD,
    "wooden_two_layer_shelf": HOUSEHOLD,
    "yellow_book": HOUSEHOLD,
}


@dataclass(frozen=True)
class Setting:
    """What one of LIBERO's problem classes loads whatever the task: its scene, the pictures of floor and walls.

    `furniture` is the fixture that belongs to the scene and has no file of its own.
    """

    scene: str
    furniture: str
    floor: str
    wall: str = "light-gray-plaster"


SETTINGS: Mapping[str, Setting] = {
    "LIBERO_Coffee_Table_Manipulation": Setting(
        "libero_coffee_table_base_style", "coffee_table", "seamless_wood_planks_floor"
    ),
    "LIBERO_Floor_Manipulation": Setting("libero_floor_base_style", "floor", "light-gray-floor-tile"),
    "LIBERO_Kitchen_Tabletop_Manipulation": Setting(
        "libero_kitchen_tabletop_base_style", "kitchen_table", "gray_ceramic_tile", "yellow_linen_wall_texture"
    ),
    "LIBERO_Living_Room_Tabletop_Manipulation": Setting(
        "libero_living_room_tabletop_base_style", "living_room_table", "seamless_wood_planks_floor"
    ),
    "LIBERO_Study_Tabletop_Manipulation": Setting("libero_study_base_style", "study_table", "light-gray-floor-tile"),
    "LIBERO_Tabletop_Manipulation": Setting("libero_tabletop_base_style", "table", "light-gray-floor-tile"),
}
_STYLED_TEXTURES = ("texplane", "tex-wall")  # a scene's own files for these are replaced by the setting's


def category_path(category: str) -> PurePosixPath:
    """Where hf-libero looks for an object category's MJCF document, below the assets folder."""
    if category in OBJECTS:
        return OBJECTS[category].xml_path(category)
    if category in _UNMEASURED:
        return object_path(_UNMEASURED[category], category)
    known = ", ".join(sorted({*OBJECTS, *_UNMEASURED}))
    raise LiberoPathError(f"no asset file is known for the object category {category!r}; known: {known}")


def task_documents(task: TaskSpec) -> tuple[PurePosixPath, ...]:
    """The scene and object documents that a task loads, below the assets folder."""
    setting, text = _setting(task)
    categories = {name for block in _BLOCK.findall(text) for name in _CATEGORY.findall(block)} - {setting.furniture}
    scene = PurePosixPath("scenes", f"{setting.scene}.xml")
    return (scene, *(category_path(category) for category in sorted(categories)))


def _setting(task: TaskSpec) -> tuple[Setting, str]:
    try:
        text = task.bddl_path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(task.bddl_path, f"a BDDL text ({error})") from error
    opened, closed = text.count("("), text.count(")")
    if opened != closed:
        raise _unreadable(task.bddl_path, f"as many ) as ( in a BDDL text, found {closed} and {opened}")
    problem = _PROBLEM.search(text)
    name = problem.group(1) if problem else "none"
    if name not in SETTINGS:
        raise LiberoPathError(f"{task.bddl_path} names the problem {name!r}: expected one of {', '.join(SETTINGS)}")
    return SETTINGS[name], text


def _unreadable(file: Path, expected: str) -> LiberoPathError:
    """What to say of a file that is there and cut off or damaged."""
    return LiberoPathError(f"{file} cannot be read: expected {expected}. {DAMAGED_ADVICE}")


@lru_cache(maxsize=512)
def _references(document: Path) -> tuple[Path, ...]:
    """Meshes and textures that a document names, relative to itself as robosuite reads them."""
    try:
        root = ElementTree.parse(document).getroot()
    except ElementTree.ParseError as error:
        raise _unreadable(document, f"an XML document ({error})") from error
    return tuple(
        (document.parent / file).resolve()
        for element in root.iter()
        if (file := element.get("file")) and element.get("name") not in _STYLED_TEXTURES
    )


def _needed(task: TaskSpec, assets: Path) -> Iterator[Path]:
    setting, _ = _setting(task)
    for picture in (setting.floor, setting.wall):
        yield assets / "textures" / f"{picture}.png"
    for document in task_documents(task):
        yield assets / document
        if (assets / document).is_file():
            yield from _references(assets / document)


def missing_files(task: TaskSpec, assets: Path) -> tuple[Path, ...]:
    """Files that the task needs and that are not in the folder; those of a missing document stay unknown."""
    return tuple(dict.fromkeys(path for path in _needed(task, assets) if not path.is_file()))


def check_assets(task: TaskSpec) -> None:
    """Raise with every missing file of the task, and what to do."""
    paths = resolve_paths()
    missing = missing_files(task, paths.assets)
    if not missing:
        return
    listed = "\n".join(f"  {path}" for path in missing)
    if paths.asset_kind == "official":
        advice = (
            "The folder is incomplete: restore these files. To use stand-ins instead, unset LIBERO_REPO_PATH, "
            "or remove the folder if it is a download"
        )
    else:
        advice = "There are no stand-ins for them: set LIBERO_REPO_PATH to an official LIBERO checkout for this task"
    raise LiberoPathError(
        f"{task.suite} task {task.task_id} ({task.name}) needs {len(missing)} asset files that are missing from "
        f"{paths.assets} ({paths.asset_kind}):\n{listed}\n{advice}"
    )


def suite_asset_kind(suite: str) -> str:
    """Kind of the files that the suite's tasks load, "official" or "stand-in <hash>": to be recorded with every result.

    The hash does not change with assets of other suites. Tasks that are not LIBERO's own are told as well.
    """
    paths = resolve_paths()
    kind = paths.asset_kind if paths.asset_kind == "official" else f"stand-in {_suite_hash(suite, paths.assets)}"
    altered = load_suite(suite).altered
    if not altered:
        return kind
    digest = hashlib.sha256(b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in altered))
    return f"{kind}, altered tasks {digest.hexdigest()[:12]}"


@lru_cache(maxsize=16)
def _suite_hash(suite: str, assets: Path) -> str:
    digest = hashlib.sha256()
    needed = {path for task in load_suite(suite).tasks for path in _needed(task, assets)}
    for path in sorted(needed):
        if path.is_file():  # else no task can be loaded that needs it
            digest.update(os.path.relpath(path, assets).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _report(suite: str, assets: Path) -> tuple[str, bool]:
    """One paragraph about a suite, and whether all of it can be loaded."""
    tasks = load_suite(suite).tasks
    lacking = {task: missing for task in tasks if (missing := missing_files(task, assets))}
    lines = [f"{suite}: {len(tasks) - len(lacking)} of {len(tasks)} tasks can be loaded"]
    for task, missing in lacking.items():
        names = ", ".join(str(path.relative_to(assets) if path.is_relative_to(assets) else path) for path in missing)
        lines.append(f"  task {task.task_id} ({task.name}) lacks {names}")
    return "\n".join(lines), not lacking


def main(arguments: Sequence[str] | None = None) -> int:
    """List what is missing, task by task; exit code 2 when a suite asked for cannot be loaded completely."""
    parser = argparse.ArgumentParser(prog="python -m libero_runtime.asset_files", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="suites to check (default: all)")
    parsed = parser.parse_args(arguments)
    return run_command(lambda: _list_missing(parsed.suites or suite_names()))


def _list_missing(suites: Sequence[str]) -> int:
    paths = resolve_paths()
    reports = [_report(suite, paths.assets) for suite in suites]
    sys.stdout.write(f"assets: {paths.assets} ({paths.asset_kind})\n")
    sys.stdout.write("\n".join(text for text, _ in reports) + "\n")
    return 0 if all(complete for _, complete in reports) else 2


if __name__ == "__main__":
    sys.exit(main())
