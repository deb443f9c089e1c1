"""Plan an evaluation: which checkpoint, on top of which others, reporting to which ledger."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from libero_runtime.suites import standard_suite
from rlinf.config.overrides import override
from rlinf.custom.checkpoint_paths import (
    SequenceError,
    Workspace,
    find_actor,
    find_location,
    is_actor,
    saved_steps,
    task_folder_of,
)
from rlinf.custom.experiment import BASE_ROW, DEFAULT_SEED, Experiment, Step
from rlinf.custom.lineage import Lineage

EVALUATE_SCRIPT = "examples/embodiment/eval_embodied_agent.py"
_SEED_SUFFIX = re.compile(r"_seed(\d+)$")


@dataclass(frozen=True)
class EvaluationRequest:
    """Evaluate a task folder's checkpoint at ``step`` (None: the documented default), or the base model."""

    location: str
    step: int | None = None
    overrides: tuple[str, ...] = ()


def plan_evaluation(request: EvaluationRequest, experiment: Experiment, *, workspace: Workspace) -> Step:
    """One step that evaluates all tasks and reports to the ledger that the checkpoint's own training reports to."""
    if request.location == BASE_ROW:
        results = workspace.root / experiment.eval_root / experiment.results_name
        return base_evaluation(results, DEFAULT_SEED, request.overrides, experiment, workspace=workspace)
    actor, notes = _checkpoint_at(find_location(request.location, workspace=workspace), request, experiment, workspace)
    folder = task_folder_of(actor)
    if folder is None:  # an adapter from elsewhere: leave its folder alone
        name = actor.parent.name if actor.name == "actor" else actor.name
        folder = workspace.root / experiment.eval_root / "evaluations" / name
    suffix = _SEED_SUFFIX.search(folder.name)
    seed = int(suffix.group(1)) if suffix else DEFAULT_SEED
    return _evaluation(actor, folder, seed, request.overrides, experiment, workspace=workspace, notes=notes)


def base_evaluation(
    results: Path, seed: int, overrides: tuple[str, ...], experiment: Experiment, *, workspace: Workspace
) -> Step:
    """One step that evaluates the base model and reports to the ledger in ``results``."""
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
    settings = [override("runner.seed", seed), override("runner.logger.log_path", workspace.show(folder))]
    if start is not None:
        settings.insert(0, override("actor.model.lora_path", start))
    if beneath:
        settings.append(override("actor.model.previous_lora_paths", beneath))
    if lineage is not None and lineage.merge_coeff is not None:
        settings.append(override("actor.model.previous_lora_coeff", lineage.merge_coeff))
        settings.append(override("actor.model.lora_scale", lineage.merge_coeff))
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
    default = 5 if standard_suite(experiment.suite) == "libero_10" else 10
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
