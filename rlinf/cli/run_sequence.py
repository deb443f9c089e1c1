"""Carry out what a launcher asks for: train task after task, evaluate, or show the plan (``--dry-run``).

It composes the configuration, plans, and runs steps in child processes: all training in one, whose workers stay from
task to task, and every evaluation in its own. It writes nothing itself.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from libero_runtime.suites import num_tasks
from rlinf.cli.child import Series, run_child
from rlinf.cli.console import EXIT_USER_ERROR, REPOSITORY, UsageError, print_error, run_cli
from rlinf.cli.launcher import Arguments, parse_count, parse_tasks, read_arguments
from rlinf.config import check_eval_suites, load_config, validate
from rlinf.config.compose import save_config
from rlinf.config.differences import refuse_other_settings
from rlinf.config.places import check_writable
from rlinf.custom.sequence.evaluation import plan_evaluation
from rlinf.custom.sequence.lineage import check_lineage
from rlinf.custom.sequence.locations import Workspace, find_run, recorded_config
from rlinf.custom.sequence.plan import TRAIN_SCRIPT, SequenceRequest, plan_sequence, sequence_folder
from rlinf.custom.sequence.recipe import DEFAULT_SEED, Recipe, Step
from rlinf.reporting import ledger
from rlinf.reporting.loggers import check_backends
from rlinf.run_layout import BASE_ROW, CONFIG_FILE, LEDGER_FILE, LINEAGE_FILE

PLANNED = {
    "runner.seed": "the argument SEED",
    "runner.max_epochs": "the argument MAX_EPOCH",
    "runner.logger.log_path": "runner.logger.log_root=FOLDER",
    "env.fixed_task_ids": "the argument TASK_ID_OR_RANGE",
    "actor.model.lora_path": "the argument CHECKPOINT_PATH",
    "actor.model.previous_lora_paths": "run_embodiment_weight_merge.sh TASK_ID_OR_RANGE MERGE_COEFF",
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
    heading, steps = plans[arguments.settings.action](arguments, workspace)
    print(heading, flush=True)
    if arguments.is_dry_run:
        for number, step in enumerate(steps, start=1):
            print("\n".join(describe(step, number, len(steps))))
        print("dry run: nothing was started")
        return 0
    return run_steps(steps)


# ----------------------------------------------------------------------------------------------------------- plans


def sequence_steps(arguments: Arguments, workspace: Workspace) -> tuple[str, tuple[Step, ...]]:
    """Training runs, one per task (``order=joint``: one for all)."""
    refuse_planned(arguments)
    seed = parse_count(arguments.value("SEED") or str(DEFAULT_SEED), name="SEED", minimum=0)
    epochs_text = arguments.value("MAX_EPOCH")
    max_epochs = parse_count(epochs_text, name="MAX_EPOCH", minimum=1) if epochs_text else None
    recipe = compose(arguments)
    suite, method = recipe.config.env.suite, recipe.config.results_name
    stages = parse_tasks(arguments, num_tasks=num_tasks(suite))
    run_id = arguments.value("RUN_ID")
    if not run_id and arguments.settings.order == "listed":
        run_id = "order_" + "_".join(str(task_id) for stage in stages for task_id in stage)
    request = SequenceRequest(
        stages=stages,
        seed=seed,
        checkpoint=arguments.value("CHECKPOINT_PATH", "INIT_CHECKPOINT") or None,
        max_epochs=max_epochs,
        run_id=run_id or None,
    )
    folder = sequence_folder(request, recipe, workspace)
    steps = plan_sequence(request, recipe, workspace=workspace, ledger=ledger.read_if_there(folder / LEDGER_FILE))
    check_steps(steps, workspace)
    epochs = max_epochs or recipe.config.runner.max_epochs
    tasks = ", then ".join("+".join(str(task_id) for task_id in stage) for stage in stages)
    heading = (
        f"{method}: {suite}, task {tasks}; {epochs} epoch{'' if epochs == 1 else 's'} each; "
        f"seed {seed}; config {recipe.config_name}; results in {workspace.show(folder)}"
    )
    return heading, steps


def refuse_planned(arguments: Arguments) -> None:
    """Overrides that would send a command elsewhere than the plan says; epochs are the plan's in any case, and an
    override where a launcher has no argument for them."""
    for key, instead in PLANNED.items():
        is_free = key == "runner.max_epochs" and "MAX_EPOCH" not in arguments.values
        if arguments.overridden(key) and not is_free:
            raise UsageError(f"{key} is set by the launcher for every task; give {instead} instead")


def evaluation_steps(arguments: Arguments, workspace: Workspace) -> tuple[str, tuple[Step, ...]]:
    """One evaluation of a checkpoint or of the base model."""
    location = arguments.value("LOCATION", "CHECKPOINT_LOCATION")
    step_text = arguments.value("STEP", "STEP_NUMBER")
    number = parse_count(step_text, name="STEP", minimum=0) if step_text else None
    recorded = None if location == BASE_ROW else recorded_config(find_run(location, workspace=workspace))
    recipe = compose(arguments, recorded=recorded)
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
        folder, learns = workspace.root / step.folder, step.command[0] == TRAIN_SCRIPT
        if step.todo:
            check_writable(folder, setting="runner.logger.log_root")
        if step.start is not None and (workspace.root / step.start / LINEAGE_FILE).is_file():
            check_lineage(step.config, workspace.root / step.start, learns=learns)
        if learns and (number == 0 or (folder / CONFIG_FILE).is_file()):  # one beside others tells of all
            refuse_other_settings(folder, step.config)


def compose(arguments: Arguments, *, recorded: str | None = None) -> Recipe:
    """Compose and check the configuration, once, before anything is started.

    recorded: the name of the one that a checkpoint was trained with.
    """
    name = arguments.value("CONFIG_NAME", "CONFIG") or recorded or arguments.settings.config
    config = load_config(name, arguments.overrides)
    validate(config, num_tasks=num_tasks(config.env.suite))
    check_eval_suites(config.env, num_tasks)
    check_backends(config.runner.logger.logger_backends)
    return Recipe(config, name, arguments.overrides)


# ------------------------------------------------------------------------------------------------------ execution


def run_steps(steps: Sequence[Step]) -> int:
    """Run what is left to do, in order; the first failure ends the sequence with its exit code."""
    environment = child_environment()
    training = [number for number, step in enumerate(steps, start=1) if step.todo and step.command[0] == TRAIN_SCRIPT]
    program = [sys.executable, "-m", "rlinf.cli.train_steps"]
    with TemporaryDirectory(prefix="rlinf_") as folder, Series(program, cwd=REPOSITORY, env=environment) as series:
        for number, step in enumerate(steps, start=1):
            if not step.todo:
                print(f"[{number}/{len(steps)}] {step.title}: done before, skipped ({step.result})", flush=True)
                continue
            for line in describe(step, number, len(steps))[:-1]:
                print(line, flush=True)
            composed = save_config(step.config, Path(folder, f"{number}.yaml"))
            words = [*step.command[1:], "--composed", str(composed)]
            if number in training:
                code = series.run(words, is_last=number == training[-1])
            else:
                code = run_child([sys.executable, step.command[0], *words], cwd=REPOSITORY, env=environment)
            if code == EXIT_USER_ERROR:  # it has said what is wrong, and the same command would end the same way
                return code
            if code > 128:
                print_error(f"{step.title} was stopped (exit code {code}); run the same command again to continue")
            elif code:  # what it said comes before, and whether the same command would end otherwise
                print_error(f"{step.title} failed with exit code {code}")
            if code:
                return code
            if step.result is not None and not (REPOSITORY / step.result).is_dir():
                print_error(f"{step.title} ended without the checkpoint it should have written: {step.result}")
                return 1
    return 0


def child_environment() -> dict[str, str]:
    """Our own environment, this repository importable, and nothing that calls home or asks questions."""
    path = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}


def describe(step: Step, number: int, count: int) -> list[str]:
    """A step in lines; the last one is its command."""
    lines = [f"[{number}/{count}] {step.title}: {'; '.join(step.todo) or 'done before, skipped'}"]
    lines += [f"  note        {note}" for note in step.notes]
    lines.append(f"  folder      {step.folder}")
    lines += [f"  merged      {path}" for path in step.merged]
    lines.append(f"  start       {step.start or ('merged model' if step.merged else 'base model')}")
    if step.result is not None:
        lines.append(f"  checkpoint  {step.result}")
    lines.append(f"  command     {shlex.join(['python', *step.command])}")
    return lines


if __name__ == "__main__":
    run_cli(main)
