"""Plan a continual-learning run: which tasks in which folders, from which checkpoints, with which commands.

Planning reads the file system and writes nothing, so a dry run is the plan and a real run is the plan carried out.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from rlinf.config.errors import UserError
from rlinf.config.overrides import Value, override
from rlinf.config.schema import with_settings
from rlinf.custom.sequence.evaluation import evaluate_base, find_earlier
from rlinf.custom.sequence.lineage import Lineage
from rlinf.custom.sequence.locations import Workspace, find_weights, recorded_start
from rlinf.custom.sequence.recipe import TRAIN_SCRIPT, Recipe, Step
from rlinf.reporting.ledger import EvaluationRecord, not_evaluated
from rlinf.run_layout import (
    BASE_ROW,
    Checkpoint,
    checkpoints,
    has_weights,
    results_folder,
    run_name,
    task_name,
)

Stage = tuple[int, ...]
"""Tasks of one training run: one, or several at once."""


@dataclass(frozen=True)
class SequenceRequest:
    """A sequence of stages."""

    stages: tuple[Stage, ...]
    seed: int
    checkpoint: str | None = None
    max_epochs: int | None = None  # None: as the configuration says
    run_id: str | None = None


def sequence_folder(request: SequenceRequest, recipe: Recipe, workspace: Workspace) -> Path:
    """Where the stages of a sequence and their ledger lie."""
    root, method = recipe.results_root(recipe.config.env.suite), recipe.config.results_name
    return workspace.root / results_folder(root, method, request.stages[0], run_id=request.run_id)


def plan_sequence(
    request: SequenceRequest, recipe: Recipe, *, workspace: Workspace, ledger: Collection[EvaluationRecord]
) -> tuple[Step, ...]:
    """One step per stage, and one before them where the base model's own evaluation was missed."""
    return _Planner(request, recipe, workspace, ledger).steps()


@dataclass(frozen=True)
class _Start:
    """What a stage starts from.

    adapter: None where it is a fresh one; earlier: adapters of the tasks before that it has beside it or beneath it.
    """

    adapter: Path | None = None
    earlier: tuple[Path, ...] = ()

    @property
    def is_base_model(self) -> bool:
        return self.adapter is None and not self.earlier


@dataclass(frozen=True)
class _Planner:
    """Plans one request."""

    request: SequenceRequest
    recipe: Recipe
    workspace: Workspace
    ledger: Collection[EvaluationRecord]

    @property
    def max_epochs(self) -> int:
        return self.request.max_epochs or self.recipe.config.runner.max_epochs

    @property
    def results(self) -> Path:
        return sequence_folder(self.request, self.recipe, self.workspace)

    def folder(self, stage: Stage) -> Path:
        return self.results / run_name(stage, self.request.seed)

    def result(self, stage: Stage) -> Checkpoint:
        return Checkpoint.at(self.folder(stage), self.max_epochs)

    def steps(self) -> tuple[Step, ...]:
        """Each stage starts from the adapter that the one before it ends with, or, where the method has one per task,
        from a fresh one with all before it."""
        request, recipe, steps = self.request, self.recipe, list[Step]()
        start = self._first_start()
        missing = self._missing(BASE_ROW) if not recipe.gives("runner.eval_before") and start.is_base_model else ()
        wants_base = bool(missing)
        if missing and checkpoints(self.folder(request.stages[0])):  # too late for its own run
            if missing != recipe.suites:
                only = {"env.suite": missing[0], "env.eval_suites": missing[1:]}
                config = with_settings(recipe.config, only)
                overrides = (*recipe.overrides, *(override(key, value) for key, value in only.items()))
                recipe = replace(recipe, config=config, overrides=overrides)
            steps.append(evaluate_base(self.results, request.seed, recipe, workspace=self.workspace))
            wants_base = False
        for stage in request.stages:
            steps.append(self._step(stage, start, wants_base=wants_base))
            result = self.result(stage).actor
            keeps = self.recipe.earlier_key is not None
            start = _Start(earlier=(*start.earlier, result)) if keeps else _Start(adapter=result)
            wants_base = False
        return tuple(steps)

    def _first_start(self) -> _Start:
        given = self.request.checkpoint
        adapter = find_weights(self.workspace.find(given), given=given) if given else None
        if self.recipe.earlier_key is None:
            return _Start(adapter)
        return _Start(earlier=self._earlier_adapters() if adapter is None else self._learnt_with(adapter))

    def _learnt_with(self, adapter: Path) -> tuple[Path, ...]:
        """The adapters of all tasks that a sequence with one per task has learnt, of which the last one is given. One
        from elsewhere may be the first that is merged into the base model, but none knows which tasks to play."""
        lineage = Lineage.load(adapter)
        if self.recipe.config.actor.model.task_lora_paths is None:
            before: tuple[str, ...] | None = lineage.merged if lineage else ()
        else:
            before = lineage.experts if lineage else None
        if before is None:
            raise UserError(
                f"{self.workspace.show(adapter)} is no adapter for a task of its own: give the last checkpoint of a "
                f"sequence of method={self.recipe.config.method.name}, or none to start with the base model"
            )
        return (*map(self.workspace.find, find_earlier(before, self.workspace)), adapter)

    def _earlier_adapters(self) -> tuple[Path, ...]:
        """What tasks before the first one of this request have learnt, from the suite's first task on; nothing where
        the user gave the whole order, or tasks to learn together."""
        stage = self.request.stages[0]
        if self.request.run_id is not None or len(stage) > 1:
            return ()
        first, wanted = self.recipe.config.env.first_task, stage[0]
        adapters = []
        for task_id in range(first, wanted):
            actor = self.result((task_id,)).actor
            if not has_weights(actor):
                raise UserError(
                    f"task {wanted} needs the adapters of the tasks before it, and that of task {task_id} is missing: "
                    f"{self.workspace.show(actor)}\n"
                    f'Train them first, with TASK_ID_OR_RANGE="{first},{wanted}"'
                )
            adapters.append(actor)
        return tuple(adapters)

    def _step(self, stage: Stage, start: _Start, *, wants_base: bool) -> Step:
        show, recipe, folder = self.workspace.show, self.recipe, self.folder(stage)
        settings: dict[str, Value | tuple[Value, ...]] = {
            "env.fixed_task_ids": stage,
            "runner.seed": self.request.seed,
            "runner.logger.log_path": show(folder),
        }
        if self.request.max_epochs is not None:
            settings["runner.max_epochs"] = self.request.max_epochs
        if start.adapter is not None:
            settings["actor.model.lora_path"] = show(start.adapter)
        if start.earlier and recipe.earlier_key is not None:
            settings[recipe.earlier_key] = tuple(show(path) for path in start.earlier)
        todo = []
        if not recipe.gives("runner.eval_before"):
            settings["runner.eval_before"] = wants_base
            todo += [f"evaluate the base model{self._on(self._missing(BASE_ROW))}"] if wants_base else []
        todo += self._training_left(stage)
        if not recipe.gives("runner.eval_after"):
            missing = self._missing(task_name(stage), self.result(stage))
            settings["runner.eval_after"] = bool(missing)
            todo += [f"evaluate all tasks{self._on(missing)}"] if missing else []
        return Step(
            title=_title(stage),
            folder=show(folder),
            start=None if start.adapter is None else show(start.adapter),
            result=show(self.result(stage).actor),
            command=recipe.command(TRAIN_SCRIPT, settings),
            config=recipe.with_settings(settings),
            todo=tuple(todo),
            notes=(*self._continuation_note(stage, start), *self._growth_note(stage)),
        )

    def _training_left(self, stage: Stage) -> list[str]:
        """What is left to train, in words.

        Raises:
            UserError: the stage was trained beyond the epochs asked for, and has no checkpoint of them.
        """
        folder, steps = self.folder(stage), [one.step for one in checkpoints(self.folder(stage))]
        if self.max_epochs in steps:
            return []
        newest = max(steps, default=0)
        if newest > self.max_epochs:
            raise UserError(
                f"{self.workspace.show(folder)} was trained to epoch {newest} and has no checkpoint of epoch "
                f"{self.max_epochs}, which is asked for; give {newest} as MAX_EPOCH, or another runner.logger.log_root"
            )
        return [f"train to epoch {self.max_epochs}" + (f", resuming after {newest}" if newest else "")]

    def _learnt_from(self, stage: Stage) -> list[str]:
        """Runs of this experiment that began with what this stage has learnt."""
        own = self.folder(stage).name
        runs = sorted(self.results.glob(f"task*_seed{self.request.seed}"))
        return [run.name for run in runs if any(own in path.parts for path in recorded_start(run))]

    def _missing(self, row: str, checkpoint: Checkpoint | None = None) -> tuple[str, ...]:
        """Suites that a row is still to be evaluated on."""
        config = self.recipe.config
        return not_evaluated(
            self.ledger,
            self.recipe.suites,
            method=config.results_name,
            seed=self.request.seed,
            row=row,
            checkpoint=checkpoint,
            temperatures=config.env.eval.temperatures,
        )

    def _on(self, missing: tuple[str, ...]) -> str:
        return "" if missing == (self.recipe.config.env.suite,) else f" of {', '.join(missing)}"

    def _growth_note(self, stage: Stage) -> tuple[str, ...]:
        """A task that is trained longer does not change what was learnt from it, and takes its own row along."""
        later = self._learnt_from(stage)
        if not later or has_weights(self.result(stage).actor):
            return ()
        return (
            f"{', '.join(later)} began with an earlier epoch of it and will not change; the row of this task in "
            f"reports will be that of epoch {self.max_epochs}",
        )

    def _continuation_note(self, stage: Stage, start: _Start) -> tuple[str, ...]:
        """Starting at task 2 from the base model is allowed, but often a forgotten checkpoint."""
        in_order = self.request.run_id is None and len(stage) == 1
        if self.recipe.earlier_key or start.adapter is not None or not in_order:
            return ()
        earlier = self.folder((stage[0] - 1,))
        if not checkpoints(earlier):
            return ()
        return (f"to continue from {self.workspace.show(earlier)} instead, give it as CHECKPOINT_PATH",)


def _title(stage: Stage) -> str:
    return f"{'task' if len(stage) == 1 else 'tasks'} {', '.join(str(task_id) for task_id in stage)}"
