"""Where everything of a run lies and what it is called, and which checkpoints there are.

Below the repository's root, or any other ``runner.logger.log_root``::

    logs[_SUITE]/METHOD[/GROUP]/evaluations.jsonl       the ledger: one line per evaluation
    logs[_SUITE]/METHOD[/GROUP]/diagnostics.jsonl       what training changed: one line per checkpoint
    logs[_SUITE]/METHOD[/GROUP]/task_K_seedS/           a run:
        run.json, config.yaml                           settings, versions, machine
        metrics.jsonl                                   one line per epoch
        trace.json                                      what each process did when (``runner.trace``)
        videos/
        checkpoints/global_step_N/actor/                an adapter or all weights, where they come from (lineage.json),
                                                        and what resuming needs

A group is one experiment among several of a method, with a ledger of its own: an order of tasks by its RUN_ID, tasks
that are learnt together by their names (``tasks_0_2_4``).
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

LEDGER_FILE = "evaluations.jsonl"
DIAGNOSTICS_FILE = "diagnostics.jsonl"
RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
TRACE_FILE = "trace.json"
VIDEOS = "videos"
CHECKPOINTS = "checkpoints"
LINEAGE_FILE = "lineage.json"
TRAINING_STATE = "training_state.pt"  # optimizer, epoch
METHOD_STATE = "method_state.safetensors"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
WHOLE_FILES = ("model.pt",)  # of a policy that is trained without an adapter

BASE_ROW = "base"
"""Names the base model in ledgers and folders, where ``task_name`` names what was learnt."""

DEFAULT_LOG_ROOT = "logs"
DEFAULT_SUITE = "libero_spatial"  # its logs carry no suite in their name

_STEP = re.compile(r"global_step_(\d+)")
_RUN = re.compile(r"tasks?_(all|\d+(?:[_,-]\d+)*)_seed(\d+)")


# ------------------------------------------------------------------------------------------------------------ names


def task_name(task_ids: Sequence[int] | None) -> str:
    """``task_3``; ``tasks_0_2_4`` for tasks that are learnt together, ``tasks_all`` (None) for all of a suite."""
    if task_ids is None:
        return "tasks_all"
    prefix = "task" if len(task_ids) == 1 else "tasks"
    return f"{prefix}_{'_'.join(str(task_id) for task_id in task_ids)}"


def run_name(task_ids: Sequence[int] | None, seed: int) -> str:
    """The folder of one run: ``task_3_seed1234``."""
    return f"{task_name(task_ids)}_seed{seed}"


def tasks_and_seed(run_folder: PurePath) -> tuple[tuple[int, ...], int] | None:
    """The tasks (none: all of a suite) and the seed in the name of a run's folder; None where the name is another."""
    match = _RUN.fullmatch(run_folder.name)
    if match is None:
        return None
    return () if match[1] == "all" else tuple(int(task) for task in re.split(r"[_,-]", match[1])), int(match[2])


def results_root(log_root: str, suite: str) -> str:
    """The folder of all methods' results: the default one carries the suite's name, a chosen one is kept."""
    is_plain = log_root != DEFAULT_LOG_ROOT or suite == DEFAULT_SUITE
    return log_root if is_plain else f"{DEFAULT_LOG_ROOT}_{suite}"


def results_folder(root: str, method: str, task_ids: Sequence[int] | None, *, run_id: str | None = None) -> PurePath:
    """Where runs of one experiment and their ledger lie.

    task_ids: the tasks of a run; several (None: all) that are learnt together are an experiment of their own.
    """
    is_joint = task_ids is None or len(task_ids) > 1
    group = run_id or (task_name(task_ids) if is_joint else None)
    return PurePath(root, method, group) if group else PurePath(root, method)


# ------------------------------------------------------------------------------------------------------ checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run: ``global_step_<step>`` below the run's folder."""

    step: int
    folder: Path

    @staticmethod
    def at(run_folder: Path, step: int) -> "Checkpoint":
        """Where a run's checkpoint of an epoch is, or will be."""
        return Checkpoint(step, run_folder / CHECKPOINTS / f"global_step_{step}")

    @property
    def actor(self) -> Path:
        """The folder of the weights and of what resuming needs."""
        return self.folder / "actor"

    @property
    def run_folder(self) -> Path:
        """The run's."""
        return self.folder.parents[1]

    @property
    def short_name(self) -> str:
        """How the ledger names it: ``task_0_seed7/global_step_10``."""
        return f"{self.run_folder.name}/{self.folder.name}"


def has_weights(folder: Path) -> bool:
    """Whether a folder holds trained weights: an adapter, or all of a policy that is trained without one."""
    return any(all((folder / name).is_file() for name in files) for files in (ADAPTER_FILES, WHOLE_FILES))


def checkpoints(run_folder: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, oldest first: what is written appears under its name when it is complete, and
    a folder without weights is none."""
    found = []
    for folder in (run_folder / CHECKPOINTS).glob("global_step_*"):
        match = _STEP.fullmatch(folder.name)
        if match and has_weights(folder / "actor"):
            found.append(Checkpoint(int(match[1]), folder))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def checkpoint_of(actor: Path) -> Checkpoint | None:
    """The checkpoint whose ``actor`` folder this is; None for weights from elsewhere."""
    match = _STEP.fullmatch(actor.parent.name)
    is_ours = match is not None and actor.name == "actor" and actor.parents[1].name == CHECKPOINTS
    return Checkpoint(int(match[1]), actor.parent) if is_ours and match else None


def step_of(name: str) -> int:
    """The epoch in the name of a checkpoint, as a ledger has it; -1 for a base model."""
    steps = _STEP.findall(name)
    return int(steps[-1]) if steps else -1


def same_checkpoint(one: str | Path, other: str | Path) -> bool:
    """Whether two names mean one checkpoint; ledgers spell it in full or as ``task_0_seed7/global_step_10``."""

    def spelt(path: str | Path) -> tuple[str, ...]:
        return tuple(part for part in Path(path).parts if part not in (CHECKPOINTS, "actor"))[-2:]

    return spelt(one) == spelt(other)


def start_writing(run_folder: Path, step: int) -> Path:
    """An empty folder to write a checkpoint into; leftovers of an interrupted write are removed."""
    folder = _unfinished(run_folder, step)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "actor").mkdir(parents=True)
    return folder


def publish(run_folder: Path, step: int) -> Checkpoint:
    """Give a fully written checkpoint its name; one of the same step that was there is replaced."""
    checkpoint = Checkpoint.at(run_folder, step)
    shutil.rmtree(checkpoint.folder, ignore_errors=True)
    _unfinished(run_folder, step).replace(checkpoint.folder)
    return checkpoint


def prune(run_folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints."""
    for checkpoint in checkpoints(run_folder)[:-keep]:
        shutil.rmtree(checkpoint.folder)


def _unfinished(run_folder: Path, step: int) -> Path:
    return run_folder / CHECKPOINTS / f".writing_global_step_{step}"
