"""Carry out what a launcher asks for: train task after task, evaluate, or show the plan (``--dry-run``).

It composes the configuration once and plans; ``rlinf.cli.steps`` carries the plan out, in a process of its own that is
started again when it dies.
"""

from collections.abc import Sequence
from pathlib import Path

from libero_runtime.suites import num_tasks
from rlinf.cli.console import REPOSITORY, UsageError, run_cli
from rlinf.cli.launcher import Arguments, parse_count, parse_tasks, read_arguments
from rlinf.cli.supervise import supervise
from rlinf.config import check_eval_suites, load_config, validate
from rlinf.config.differences import refuse_other_settings
from rlinf.config.places import check_writable
from rlinf.custom.sequence.evaluation import plan_evaluation
from rlinf.custom.sequence.lineage import check_lineage
from rlinf.custom.sequence.locations import Workspace, find_run, recorded_config
from rlinf.custom.sequence.plan import SequenceRequest, plan_sequence, sequence_folder
from rlinf.custom.sequence.recipe import DEFAULT_SEED, TRAIN_SCRIPT, Recipe, Step
from rlinf.reporting import ledger
from rlinf.reporting.loggers import check_backends
from rlinf.run_layout import BASE_ROW, CONFIG_FILE, LEDGER_FILE, LINEAGE_FILE, Checkpoint, checkpoints

PLANNED = {
    "runner.seed": "the argument SEED",
    "runner.max_epochs": "the argument MAX_EPOCH",
    "runner.logger.log_path": "runner.logger.log_root=FOLDER",
    "env.fixed_task_ids": "the argument TASK_ID_OR_RANGE",
    "actor.model.lora_path": "the argument CHECKPOINT_PATH",
    "actor.model.previous_lora_paths": "run_embodiment_weight_merge.sh TASK_ID_OR_RANGE MERGE_COEFF",
    "actor.model.task_lora_paths": "run_embodiment_dwe.sh TASK_ID_OR_RANGE",
}
PREVIOUS_COEFF = "actor.model.previous_lora_coeff"
SCALE = "actor.model.lora_scale"


def main(argv: Sequence[str]) -> int:
    arguments = read_arguments(argv)
    if arguments.is_help:
        print(arguments.usage)
        return 0
    workspace = Workspace(root=REPOSITORY, called_from=Path.cwd())
    plans = {"sequence": sequence_steps, "evaluate": evaluation_steps, "train": single_step}
    heading, steps = plans[arguments.action](arguments, workspace)
    print(heading)
    if arguments.is_dry_run:
        for number, step in enumerate(steps, start=1):
            print("\n".join(step.describe(number, len(steps))))
        print("dry run: nothing was started")
        return 0
    if not any(step.todo for step in steps):
        print("\n".join(step.skipped(number, len(steps)) for number, step in enumerate(steps, start=1)))
        return 0

    def work(is_first: bool) -> int:
        from rlinf.cli.steps import run_steps  # which imports torch and Ray

        return run_steps(steps if is_first else plans[arguments.action](arguments, workspace)[1])

    limit = max(step.config.runner.max_restarts for step in steps)
    return supervise(work, lambda: [_saved(workspace.root / step.folder) for step in steps], max_restarts=limit)


def _saved(folder: Path) -> tuple[list[Checkpoint], int]:
    """What a run has written for good: checkpoints, and evaluations beside it."""
    return checkpoints(folder), len(ledger.read(folder.parent / LEDGER_FILE))


def sequence_steps(arguments: Arguments, workspace: Workspace) -> tuple[str, tuple[Step, ...]]:
    """Training runs, one per task (``order=joint``: one for all)."""
    seed = parse_count(arguments.value("SEED") or str(DEFAULT_SEED), name="SEED", minimum=0)
    epochs_text = arguments.value("MAX_EPOCH")
    max_epochs = parse_count(epochs_text, name="MAX_EPOCH", minimum=1) if epochs_text else None
    recipe = compose(arguments)
    refuse_planned(arguments, recipe)
    suite, method = recipe.config.env.suite, recipe.config.results_name
    stages = parse_tasks(arguments, num_tasks=num_tasks(suite))
    run_id = arguments.value("RUN_ID")
    if not run_id and arguments.order == "listed":
        run_id = "order_" + "_".join(str(task_id) for stage in stages for task_id in stage)
    request = SequenceRequest(
        stages=stages,
        seed=seed,
        checkpoint=arguments.value("CHECKPOINT_PATH", "INIT_CHECKPOINT") or None,
        max_epochs=max_epochs,
        run_id=run_id or None,
    )
    folder = sequence_folder(request, recipe, workspace)
    steps = plan_sequence(request, recipe, workspace=workspace, ledger=ledger.read(folder / LEDGER_FILE))
    check_steps(steps, workspace)
    epochs = max_epochs or recipe.config.runner.max_epochs
    tasks = ", then ".join("+".join(str(task_id) for task_id in stage) for stage in stages)
    heading = (
        f"{method}: {suite}, task {tasks}; {epochs} epoch{'' if epochs == 1 else 's'} each; "
        f"seed {seed}; config {recipe.config_name}; results in {workspace.show(folder)}"
    )
    return heading, steps


def refuse_planned(arguments: Arguments, recipe: Recipe) -> None:
    """Overrides that would send a command elsewhere than the plan says; epochs are the plan's in any case, and an
    override where a launcher has no argument for them."""
    for key, instead in PLANNED.items():
        is_free = key == "runner.max_epochs" and "MAX_EPOCH" not in arguments.values
        if recipe.gives(key) and not is_free:
            raise UsageError(f"{key} is set by the launcher for every task; give {instead} instead")


def evaluation_steps(arguments: Arguments, workspace: Workspace) -> tuple[str, tuple[Step, ...]]:
    """One evaluation of a checkpoint or of the base model."""
    location = arguments.value("LOCATION", "CHECKPOINT_LOCATION")
    step_text = arguments.value("STEP", "STEP_NUMBER")
    number = parse_count(step_text, name="STEP", minimum=0) if step_text else None
    recorded = None if location == BASE_ROW else recorded_config(find_run(location, workspace=workspace))
    recipe = compose(arguments, recorded=recorded, learns=False)
    step = plan_evaluation(location, number, recipe, workspace=workspace)
    if not step.merged and recipe.gives(PREVIOUS_COEFF):
        raise UsageError(f"PREVIOUS_LORA_COEFF: no earlier adapters are merged beneath {step.title}; leave it out")
    if step.start is None and recipe.gives(SCALE):
        raise UsageError("CURRENT_LORA_SCALE: the base model has no adapter to scale; give a checkpoint")
    check_steps((step,), workspace)
    return f"evaluation of {step.title} with config {recipe.config_name}", (step,)


def single_step(arguments: Arguments, workspace: Workspace) -> tuple[str, tuple[Step, ...]]:
    """One training run exactly as the configuration and the overrides say."""
    recipe = compose(arguments)
    step = Step(
        title="training",
        folder="as configured",
        start=None,
        result=None,
        command=recipe.command(TRAIN_SCRIPT, {}),
        config=recipe.config,
        todo=("train",),
    )
    return f"training with config {recipe.config_name}", (step,)


def check_steps(steps: Sequence[Step], workspace: Workspace) -> None:
    """Refuse, before anything is started, to mix settings in one folder and checkpoints of another suite or model, and
    to write where nothing can be written."""
    for number, step in enumerate(steps):
        folder = workspace.root / step.folder
        if step.todo:
            check_writable(folder, setting="runner.logger.log_root")
        for place, path in enumerate(step.experts):
            if (workspace.root / path / LINEAGE_FILE).is_file():
                check_lineage(step.config, workspace.root / path, expert=place, learns=step.learns)
        if step.start is not None and (workspace.root / step.start / LINEAGE_FILE).is_file():
            check_lineage(step.config, workspace.root / step.start, learns=step.learns)
        if step.learns and (number == 0 or (folder / CONFIG_FILE).is_file()):  # one beside others tells of all
            refuse_other_settings(folder, step.config)


def compose(arguments: Arguments, *, recorded: str | None = None, learns: bool = True) -> Recipe:
    """Compose and check the configuration, once, before anything is started.

    recorded: the name of the one that a checkpoint was trained with. learns: not an evaluation only, whose results go
    to the ledger, wherever metrics are to go.
    """
    name = arguments.value("CONFIG_NAME", "CONFIG") or recorded or arguments.config
    config = load_config(name, arguments.overrides)
    validate(config, num_tasks=num_tasks(config.env.suite))
    check_eval_suites(config.env, num_tasks)
    if learns:
        check_backends(config.runner.logger.logger_backends)
    recipe = Recipe(config, name, arguments.overrides)
    if arguments.is_dry_run and recipe.gives("method.name"):
        from rlinf.custom.methods import make_method  # imports torch, which must not be there before a fork

        make_method(config.method)
    return recipe


if __name__ == "__main__":
    run_cli(main)
