"""Plan a continual-learning run: which tasks in which folders, from which checkpoints, with which commands.

Planning reads the file system and writes nothing, so a dry run is the plan and a real run is the plan carried out.
Layout, below the repository's root (or any other ``runner.logger.log_root``)::

    logs[_SUITE]/METHOD[/RUN_ID]/task_K_seedS/checkpoints/global_step_N/actor/   one PEFT adapter per saved epoch
    logs[_SUITE]/METHOD[/RUN_ID]/evaluations.jsonl                               one line per evaluation
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlinf.custom.checkpoint_paths import (
    SequenceError,
    Workspace,
    find_actor,
    find_location,
    is_actor,
    saved_steps,
    task_folder_of,
)
from rlinf.custom.lineage import Lineage

NUM_TASKS = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
DEFAULT_LOG_ROOT = "logs"
DEFAULT_SUITE = "libero_spatial"  # its logs carry no suite in their name
TRAIN_SCRIPT = "examples/embodiment/train_embodied_agent.py"
EVALUATE_SCRIPT = "examples/embodiment/eval_embodied_agent.py"
BASE_ROW = "base"
DEFAULT_SEED = 1234

_SEED_SUFFIX = re.compile(r"_seed(\d+)$")


@dataclass(frozen=True)
class Experiment:
    """What planning needs of the composed configuration."""

    config_name: str
    suite: str
    max_epochs: int
    log_root: str = DEFAULT_LOG_ROOT
    eval_before: bool | None = None  # what the user asks for; None: the planner decides
    eval_after: bool | None = None
    first_task: int = 0  # of the published sequences on this suite
    results_name: str = "sequential"  # of the configured method
    merges: bool = False  # every task learns a fresh adapter on top of the earlier ones, merged into the base

    @property
    def num_tasks(self) -> int:
        if self.suite not in NUM_TASKS:
            raise SequenceError(f"unknown suite {self.suite!r} in {self.config_name}; known: {', '.join(NUM_TASKS)}")
        return NUM_TASKS[self.suite]

    @property
    def root(self) -> str:
        """The folder of all methods' results: the default one carries the suite's name, a chosen one is kept."""
        if self.log_root != DEFAULT_LOG_ROOT or self.suite == DEFAULT_SUITE:
            return self.log_root
        return f"{DEFAULT_LOG_ROOT}_{self.suite}"


@dataclass(frozen=True)
class Evaluated:
    """One line of the ledger, as far as planning cares."""

    row: str
    seed: int
    checkpoint: str


@dataclass(frozen=True)
class Step:
    """One command of a plan. Paths are relative to the repository where they lie inside it."""

    title: str
    folder: str
    start: str | None  # actor folder; None is the base model or, in weight merge, what ``merged`` makes of it
    result: str | None  # actor folder that exists when the command has done its work; None for an evaluation
    command: tuple[str, ...]  # script and arguments, without the interpreter
    todo: tuple[str, ...]  # what is left to do, in words; empty: skipped
    notes: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()  # actor folders that are merged into the base model


# ---------------------------------------------------------------------------------------------- reading arguments


def parse_task_range(text: str, *, num_tasks: int) -> tuple[int, ...]:
    """``"3"`` is task 3, ``"0,4"`` are tasks 0 to 4 in order."""
    ids = _task_ids(text, expected='one task id such as "0", or a first and a last one such as "0,4"')
    if len(ids) > 2:
        raise SequenceError(
            f'TASK_ID_OR_RANGE={text!r} has {len(ids)} numbers; expected one task id such as "0", or a first and a '
            'last one such as "0,4" for tasks 0 to 4'
        )
    _check_task_ids(ids, text, num_tasks=num_tasks)
    first, last = ids[0], ids[-1]
    if first > last:
        raise SequenceError(
            f'TASK_ID_OR_RANGE={text!r} is reversed; write "{last},{first}" for tasks {last} to {first}, in that order'
        )
    return tuple(range(first, last + 1))


def parse_task_list(text: str, *, num_tasks: int) -> tuple[int, ...]:
    """``"4,0,2"`` are exactly these tasks in this order."""
    ids = _task_ids(text, expected='task ids such as "0,2,4"')
    _check_task_ids(ids, text, num_tasks=num_tasks)
    if len(set(ids)) < len(ids):
        raise SequenceError(f"TASK_IDS={text!r} names a task twice; every task is learnt once")
    return ids


def parse_count(text: str, *, name: str, minimum: int) -> int:
    """A whole number of at least ``minimum``."""
    try:
        number = int(text)
    except ValueError:
        raise SequenceError(f"{name} must be a whole number, got {text!r}") from None
    if number < minimum:
        raise SequenceError(f"{name} must be at least {minimum}, got {number}")
    return number


def _task_ids(text: str, *, expected: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.removeprefix("-").isascii() and part.removeprefix("-").isdigit() for part in parts):
        raise SequenceError(f"cannot read the tasks {text!r}; expected {expected}")
    return tuple(int(part) for part in parts)


def _check_task_ids(ids: Sequence[int], text: str, *, num_tasks: int) -> None:
    outside = [task_id for task_id in ids if not 0 <= task_id < num_tasks]
    if outside:
        raise SequenceError(
            f"task {outside[0]} (in {text!r}) is out of range: the suite has tasks 0 to {num_tasks - 1}"
        )


def task_name(task_ids: Sequence[int]) -> str:
    """``task_3``, or ``tasks_0_2_4`` for tasks that are trained together."""
    prefix = "task" if len(task_ids) == 1 else "tasks"
    return f"{prefix}_{'_'.join(str(task_id) for task_id in task_ids)}"


# ------------------------------------------------------------------------------------------------------ sequences


@dataclass(frozen=True)
class SequenceRequest:
    """A sequence of stages; a stage is one training run over one task, or over several at once."""

    method: str
    stages: tuple[tuple[int, ...], ...]
    seed: int
    checkpoint: str | None = None
    max_epochs: int | None = None  # None: as the configuration says
    run_id: str | None = None
    overrides: tuple[str, ...] = ()  # Hydra overrides: the launcher's own, then the user's


def method_folder(request: SequenceRequest, experiment: Experiment, workspace: Workspace) -> Path:
    """Where the stages of a sequence and their ledger lie."""
    folder = workspace.root / experiment.root / request.method
    return folder / request.run_id if request.run_id else folder


def plan_sequence(
    request: SequenceRequest, experiment: Experiment, *, workspace: Workspace, ledger: Collection[Evaluated]
) -> tuple[Step, ...]:
    """One step per stage. Each starts from the adapter that the one before it ends with, or, where the method merges,
    from a fresh one on top of all before it."""
    start: Path | None = None
    if request.checkpoint:
        start = find_actor(workspace.find(request.checkpoint), given=request.checkpoint)
    steps = []
    results = method_folder(request, experiment, workspace)
    merged = _earlier_adapters(request, experiment, workspace) if experiment.merges else ()
    is_first = start is None and not merged
    wants_base = experiment.eval_before is None and is_first and not _has_base(ledger, request.seed)
    if wants_base and saved_steps(results / _stage_name(request.stages[0], request)):  # too late for its own run
        steps.append(_base_evaluation(results, request.seed, request.overrides, experiment, workspace=workspace))
        wants_base = False
    for task_ids in request.stages:
        step = _plan_stage(
            task_ids, start, merged, request, experiment, workspace=workspace, ledger=ledger, wants_base=wants_base
        )
        steps.append(step)
        result = workspace.root / (step.result or "")
        if experiment.merges:
            merged = (*merged, result)
        else:
            start = result
        wants_base = False
    return tuple(steps)


def _earlier_adapters(request: SequenceRequest, experiment: Experiment, workspace: Workspace) -> tuple[Path, ...]:
    """What tasks before the first one of this request have learnt, from the first task of the suite's sequences on."""
    max_epochs = request.max_epochs or experiment.max_epochs
    folder = method_folder(request, experiment, workspace)
    adapters = []
    for task_id in range(experiment.first_task, request.stages[0][0]):
        actor = folder / _stage_name((task_id,), request) / "checkpoints" / f"global_step_{max_epochs}" / "actor"
        if not is_actor(actor):
            raise SequenceError(
                f"task {request.stages[0][0]} learns on top of the adapters of the tasks before it, and that of task "
                f"{task_id} is missing: {workspace.show(actor)}\n"
                f'Train them first, with TASK_ID_OR_RANGE="{experiment.first_task},{request.stages[0][0]}"'
            )
        adapters.append(actor)
    return tuple(adapters)


def _plan_stage(
    task_ids: tuple[int, ...],
    start: Path | None,
    merged: tuple[Path, ...],
    request: SequenceRequest,
    experiment: Experiment,
    *,
    workspace: Workspace,
    ledger: Collection[Evaluated],
    wants_base: bool,
) -> Step:
    name = task_name(task_ids)
    folder = method_folder(request, experiment, workspace) / _stage_name(task_ids, request)
    max_epochs = request.max_epochs or experiment.max_epochs
    result = folder / "checkpoints" / f"global_step_{max_epochs}" / "actor"
    settings = [
        f"env.fixed_task_ids=[{','.join(str(task_id) for task_id in task_ids)}]",
        f"runner.seed={request.seed}",
        f"runner.logger.log_path={workspace.show(folder)}",
    ]
    if request.max_epochs is not None:
        settings.append(f"runner.max_epochs={request.max_epochs}")
    if start is not None:
        settings.append(f"actor.model.lora_path={workspace.show(start)}")
    beneath = tuple(workspace.show(path) for path in merged)
    if beneath:
        settings.append(f"actor.model.previous_lora_paths=[{','.join(beneath)}]")

    todo = []
    if experiment.eval_before is None:
        settings.append(f"runner.eval_before={str(wants_base).lower()}")
        if wants_base:
            todo.append("evaluate the base model")
    if not is_actor(result):
        newest = max(saved_steps(folder), default=0)
        if newest > max_epochs:
            raise SequenceError(
                f"{workspace.show(folder)} was trained to epoch {newest} and has no checkpoint of epoch {max_epochs}, "
                f"which is asked for; give {newest} as MAX_EPOCH, or another runner.logger.log_root"
            )
        todo.append(f"train to epoch {max_epochs}" + (f", resuming after {newest}" if newest else ""))
    if experiment.eval_after is None:
        wants_result = not _has_result(ledger, result, row=name, seed=request.seed)
        settings.append(f"runner.eval_after={str(wants_result).lower()}")
        if wants_result:
            todo.append("evaluate all tasks")
    return Step(
        title=f"{'task' if len(task_ids) == 1 else 'tasks'} {', '.join(str(task_id) for task_id in task_ids)}",
        folder=workspace.show(folder),
        start=None if start is None else workspace.show(start),
        result=workspace.show(result),
        command=(TRAIN_SCRIPT, "--config-name", experiment.config_name, *settings, *request.overrides),
        todo=tuple(todo),
        notes=() if experiment.merges else _continuation_note(task_ids, folder, start, workspace=workspace),
        merged=beneath,
    )


def _stage_name(task_ids: Sequence[int], request: SequenceRequest) -> str:
    return f"{task_name(task_ids)}_seed{request.seed}"


def _has_base(ledger: Collection[Evaluated], seed: int) -> bool:
    return any(line.row == BASE_ROW and line.seed == seed for line in ledger)


def _has_result(ledger: Collection[Evaluated], actor: Path, *, row: str, seed: int) -> bool:
    """Whether this very checkpoint was evaluated; the ledger may spell its path in full or as ``task_0_seed7/...``."""

    def spelt(path: Path) -> tuple[str, ...]:
        return tuple(part for part in path.parts if part not in ("checkpoints", "actor"))[-2:]

    return any((line.row, line.seed, spelt(Path(line.checkpoint))) == (row, seed, spelt(actor)) for line in ledger)


def _continuation_note(
    task_ids: tuple[int, ...], folder: Path, start: Path | None, *, workspace: Workspace
) -> tuple[str, ...]:
    """Starting at task 2 from the base model is allowed, but often a forgotten checkpoint."""
    if start is not None or len(task_ids) != 1:
        return ()
    seed = _SEED_SUFFIX.search(folder.name)
    earlier = folder.with_name(f"task_{task_ids[0] - 1}{seed.group() if seed else ''}")
    if not saved_steps(earlier):
        return ()
    return (f"to continue from {workspace.show(earlier)} instead, give it as CHECKPOINT_PATH",)


# ----------------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class EvaluationRequest:
    """Evaluate a task folder's checkpoint at ``step`` (None: the documented default), or the base model."""

    location: str
    step: int | None = None
    overrides: tuple[str, ...] = ()


def plan_evaluation(request: EvaluationRequest, experiment: Experiment, *, workspace: Workspace) -> Step:
    """One step that evaluates all tasks and reports to the ledger that the checkpoint's own training reports to."""
    if request.location == BASE_ROW:
        results = workspace.root / experiment.root / experiment.results_name
        return _base_evaluation(results, DEFAULT_SEED, request.overrides, experiment, workspace=workspace)
    actor, notes = _checkpoint_at(find_location(request.location, workspace=workspace), request, experiment, workspace)
    folder = task_folder_of(actor)
    if folder is None:  # an adapter from elsewhere: leave its folder alone
        name = actor.parent.name if actor.name == "actor" else actor.name
        folder = workspace.root / experiment.root / "evaluations" / name
    suffix = _SEED_SUFFIX.search(folder.name)
    seed = int(suffix.group(1)) if suffix else DEFAULT_SEED
    return _evaluation(actor, folder, seed, request.overrides, experiment, workspace=workspace, notes=notes)


def _base_evaluation(
    results: Path, seed: int, overrides: tuple[str, ...], experiment: Experiment, *, workspace: Workspace
) -> Step:
    return _evaluation(None, results / f"{BASE_ROW}_seed{seed}", seed, overrides, experiment, workspace=workspace)


def _evaluation(
    actor: Path | None,
    folder: Path,
    seed: int,
    overrides: tuple[str, ...],
    experiment: Experiment,
    *,
    workspace: Workspace,
    notes: tuple[str, ...] = (),
) -> Step:
    start = None if actor is None else workspace.show(actor)
    lineage = None if actor is None else Lineage.load(actor)
    beneath = _merged_beneath(lineage, workspace)
    settings = [f"runner.seed={seed}", f"runner.logger.log_path={workspace.show(folder)}"]
    if start is not None:
        settings.insert(0, f"actor.model.lora_path={start}")
    if beneath:
        settings.append(f"actor.model.previous_lora_paths=[{','.join(beneath)}]")
    if lineage is not None and lineage.merge_coeff is not None:
        settings.append(f"actor.model.previous_lora_coeff={lineage.merge_coeff}")
        settings.append(f"actor.model.lora_scale={lineage.merge_coeff}")
    return Step(
        title="base model" if actor is None else f"{folder.name}, {actor.parent.name}",
        folder=workspace.show(folder),
        start=start,
        result=None,
        command=(EVALUATE_SCRIPT, "--config-name", experiment.config_name, *settings, *overrides),
        todo=("evaluate all tasks",),
        notes=notes,
        merged=beneath,
    )


def _merged_beneath(lineage: Lineage | None, workspace: Workspace) -> tuple[str, ...]:
    """The adapters that a checkpoint was trained on top of; each must be there."""
    paths = [workspace.find(path) for path in lineage.merged] if lineage else []
    for path in paths:
        if not is_actor(path):
            raise SequenceError(
                f"the checkpoint was trained on top of the adapter in {workspace.show(path)}, which is missing"
            )
    return tuple(workspace.show(path) for path in paths)


def _checkpoint_at(
    folder: Path, request: EvaluationRequest, experiment: Experiment, workspace: Workspace
) -> tuple[Path, tuple[str, ...]]:
    steps = saved_steps(folder)
    if not steps:
        return find_actor(folder, given=request.location), ()
    default = 5 if experiment.suite == "libero_10" else 10
    wanted = default if request.step is None else request.step
    if wanted in steps:
        return find_actor(steps[wanted], given=workspace.show(steps[wanted])), ()
    if request.step is not None:
        raise SequenceError(
            f"{workspace.show(folder)} has no checkpoint of step {wanted}; there are {', '.join(map(str, steps))}"
        )
    newest = steps[max(steps)]
    note = f"there is no global_step_{default}; the newest checkpoint, {newest.name}, is used"
    return find_actor(newest, given=workspace.show(newest)), (note,)
