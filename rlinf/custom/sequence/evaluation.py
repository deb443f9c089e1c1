"""Plan an evaluation: which checkpoint, on top of which others, reporting to which ledger."""

import re
from collections.abc import Sequence
from pathlib import Path

from libero_runtime.suites import standard_suite
from rlinf.config.errors import UserError
from rlinf.config.overrides import Value
from rlinf.custom.sequence.lineage import Lineage
from rlinf.custom.sequence.locations import Workspace, find_run, find_weights
from rlinf.custom.sequence.recipe import DEFAULT_SEED, EVALUATE_SCRIPT, Recipe, Step
from rlinf.run_layout import BASE_ROW, checkpoint_of, checkpoints, has_weights


def plan_evaluation(location: str, step: int | None, recipe: Recipe, *, workspace: Workspace) -> Step:
    """One step that evaluates all tasks and reports to the ledger that the checkpoint's own training reports to.

    location: folder of a run, or ``base``; step: the checkpoint's, None: the documented default.
    """
    root = workspace.root / recipe.results_root(standard_suite(recipe.config.env.suite))
    if location == BASE_ROW:
        return evaluate_base(root / recipe.config.results_name, DEFAULT_SEED, recipe, workspace=workspace)
    actor, notes = _checkpoint_at(find_run(location, workspace=workspace), location, step, recipe, workspace)
    checkpoint = checkpoint_of(actor)
    if checkpoint is None:  # an adapter from elsewhere: leave its folder alone
        folder = root / "evaluations" / (actor.parent.name if actor.name == "actor" else actor.name)
    else:
        folder = checkpoint.run_folder
    suffix = re.search(r"_seed(\d+)$", folder.name)
    seed = int(suffix[1]) if suffix else DEFAULT_SEED
    return _evaluate(actor, folder, seed, recipe, workspace=workspace, notes=notes)


def evaluate_base(results: Path, seed: int, recipe: Recipe, *, workspace: Workspace) -> Step:
    """One step that evaluates the base model and reports to the ledger in ``results``."""
    return _evaluate(None, results / f"{BASE_ROW}_seed{seed}", seed, recipe, workspace=workspace)


def _evaluate(
    actor: Path | None, folder: Path, seed: int, recipe: Recipe, *, workspace: Workspace, notes: tuple[str, ...] = ()
) -> Step:
    lineage = Lineage.load(actor) if actor else None
    settings: dict[str, Value | tuple[str, ...]] = {}
    if actor is not None:
        settings["actor.model.lora_path"] = workspace.show(actor)
    settings |= {"runner.seed": seed, "runner.logger.log_path": workspace.show(folder)}
    if lineage is not None and lineage.merged:
        settings["actor.model.previous_lora_paths"] = find_earlier(lineage.merged, workspace)
    if lineage is not None and lineage.experts is not None:
        settings["actor.model.task_lora_paths"] = find_earlier(lineage.experts, workspace)
    if lineage is not None and lineage.merge_coeff is not None:
        settings["actor.model.previous_lora_coeff"] = lineage.merge_coeff
        settings["actor.model.lora_scale"] = lineage.merge_coeff
    return Step(
        title="base model" if actor is None else f"{folder.name}, {actor.parent.name}",
        folder=workspace.show(folder),
        start=None if actor is None else workspace.show(actor),
        result=None,
        command=recipe.command(EVALUATE_SCRIPT, settings),
        config=recipe.with_settings(settings),
        todo=("evaluate all tasks",),
        notes=notes,
    )


def find_earlier(paths: Sequence[str], workspace: Workspace) -> tuple[str, ...]:
    """The adapters of earlier tasks that a checkpoint was trained with; each must be there."""
    found = [workspace.find(path) for path in paths]
    for path in found:
        if not has_weights(path):
            raise UserError(f"the checkpoint needs the adapter in {workspace.show(path)}, which is missing")
    return tuple(workspace.show(path) for path in found)


def _checkpoint_at(
    folder: Path, given: str, step: int | None, recipe: Recipe, workspace: Workspace
) -> tuple[Path, tuple[str, ...]]:
    found = {checkpoint.step: checkpoint for checkpoint in checkpoints(folder)}
    if not found:
        return find_weights(folder, given=given), ()
    default = 5 if standard_suite(recipe.config.env.suite) == "libero_10" else 10
    wanted = default if step is None else step
    if wanted in found:
        return found[wanted].actor, ()
    if step is not None:
        raise UserError(
            f"{workspace.show(folder)} has no checkpoint of step {step}; there are {', '.join(map(str, found))}"
        )
    newest = found[max(found)]
    return newest.actor, (f"there is no global_step_{default}; the newest checkpoint, {newest.folder.name}, is used",)
