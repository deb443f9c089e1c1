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

from rlinf.cli.child import Series, run_child
from rlinf.cli.console import EXIT_USER_ERROR, REPOSITORY, UsageError, print_error, run_cli
from rlinf.cli.launcher import Arguments, read_arguments
from rlinf.config import RANDOM_ACTION, Config, check_eval_suites, load_config, validate
from rlinf.config.differences import CONFIG_FILE, refuse_other_settings
from rlinf.config.places import check_writable
from rlinf.config.resolve import MERGING_METHOD
from rlinf.custom.checkpoint_paths import Workspace, find_location, recorded_config
from rlinf.custom.evaluation_plan import EvaluationRequest, plan_evaluation
from rlinf.custom.experiment import DEFAULT_SEED, Experiment, Step
from rlinf.custom.lineage import LINEAGE_FILE, check_lineage
from rlinf.custom.task_sequence import TRAIN_SCRIPT, Evaluated, SequenceRequest, plan_sequence, sequence_folder
from rlinf.custom.tasks import num_tasks_of, parse_count, parse_task_list, parse_task_range
from rlinf.reporting import ledger
from rlinf.reporting.loggers import check_backends

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
    config_name = arguments.value("CONFIG_NAME") or arguments.settings.config
    experiment = compose(config_name, arguments)
    stages = read_stages(arguments, num_tasks=experiment.num_tasks)
    run_id = arguments.value("RUN_ID")
    if not run_id and arguments.settings.order == "listed":
        run_id = "order_" + "_".join(str(task_id) for stage in stages for task_id in stage)
    request = SequenceRequest(
        method=experiment.results_name,
        stages=stages,
        seed=seed,
        checkpoint=arguments.value("CHECKPOINT_PATH", "INIT_CHECKPOINT") or None,
        max_epochs=max_epochs,
        run_id=run_id or None,
        overrides=arguments.overrides,
    )
    folder = sequence_folder(request, experiment, workspace)
    ledger_path = folder / ledger.LEDGER_NAME
    records = ledger.read(ledger_path) if ledger_path.exists() else []
    own = [one for one in records if not one.probe and one.method != RANDOM_ACTION]
    evaluated = [Evaluated(one.row, one.seed, one.checkpoint, one.suite) for one in own]
    steps = plan_sequence(request, experiment, workspace=workspace, ledger=evaluated)
    check_steps(steps, workspace)
    epochs = max_epochs or experiment.max_epochs
    tasks = ", then ".join("+".join(str(task_id) for task_id in stage) for stage in stages)
    heading = (
        f"{request.method}: {experiment.suite}, task {tasks}; {epochs} epoch{'' if epochs == 1 else 's'} each; "
        f"seed {seed}; config {config_name}; results in {workspace.show(folder)}"
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
    step = parse_count(step_text, name="STEP", minimum=0) if step_text else None
    folder = None if location == "base" else find_location(location, workspace=workspace)
    recorded = None if folder is None else recorded_config(folder)
    config_name = arguments.value("CONFIG_NAME", "CONFIG") or recorded or arguments.settings.config
    experiment = compose(config_name, arguments)
    request = EvaluationRequest(location=location, step=step, overrides=arguments.overrides)
    plan = plan_evaluation(request, experiment, workspace=workspace)
    if not plan.merged and any(override.startswith(f"{PREVIOUS_COEFF}=") for override in arguments.overrides):
        raise UsageError(f"PREVIOUS_LORA_COEFF: no earlier adapters are merged beneath {plan.title}; leave it out")
    if plan.start is None and any(override.startswith(f"{SCALE}=") for override in arguments.overrides):
        raise UsageError("CURRENT_LORA_SCALE: the base model has no adapter to scale; give a checkpoint")
    check_steps((plan,), workspace)
    return f"evaluation of {plan.title} with config {config_name}", (plan,)


def check_steps(steps: Sequence[Step], workspace: Workspace) -> None:
    """Refuse, before anything is started, to mix settings in one folder and checkpoints of another suite or model, and
    to write where nothing can be written."""
    for number, step in enumerate(steps):
        folder = workspace.root / step.folder
        if step.todo:
            check_writable(folder, setting="runner.logger.log_root")
        start = None if step.start is None else workspace.root / step.start
        known_start = start is not None and (start / LINEAGE_FILE).is_file()
        began = (folder / CONFIG_FILE).is_file()
        is_first_beside_others = number == 0 and any(folder.parent.glob(f"*/{CONFIG_FILE}"))
        if not (known_start or began or is_first_beside_others):
            continue
        config = load_config(step.command[2], step.command[3:])
        if start is not None and known_start:
            check_lineage(config, start, learns=step.command[0] == TRAIN_SCRIPT)
        if step.command[0] == TRAIN_SCRIPT:
            refuse_other_settings(folder, config)


def single_step(arguments: Arguments, workspace: Workspace) -> tuple[str, tuple[Step, ...]]:
    """One training run exactly as the configuration and the overrides say."""
    config_name = arguments.value("CONFIG_NAME") or arguments.settings.config
    compose(config_name, arguments)
    step = Step(
        title="training",
        folder="as configured",
        start=None,
        result=None,
        command=(TRAIN_SCRIPT, "--config-name", config_name, *arguments.overrides),
        todo=("train",),
    )
    return f"training with config {config_name}", (step,)


def read_stages(arguments: Arguments, *, num_tasks: int) -> tuple[tuple[int, ...], ...]:
    text = arguments.value("TASK_ID_OR_RANGE", "TASK_IDS")
    if arguments.settings.order == "range":
        return tuple((task_id,) for task_id in parse_task_range(text, num_tasks=num_tasks))
    ids = parse_task_list(text, num_tasks=num_tasks)
    return (tuple(sorted(ids)),) if arguments.settings.order == "joint" else tuple((task_id,) for task_id in ids)


def compose(config_name: str, arguments: Arguments) -> Experiment:
    """Compose and check the configuration once, before anything is started."""
    config: Config = load_config(config_name, arguments.overrides)
    experiment = Experiment(
        config_name=config_name,
        suite=config.env.suite,
        max_epochs=config.runner.max_epochs,
        log_root=config.runner.logger.log_root,
        eval_before=config.runner.eval_before if arguments.overridden("runner.eval_before") else None,
        eval_after=config.runner.eval_after if arguments.overridden("runner.eval_after") else None,
        first_task=config.env.first_task,
        results_name=config.results_name,
        eval_suites=tuple(config.env.eval_suites),
        merges=config.method.name == MERGING_METHOD,
    )
    validate(config, num_tasks=experiment.num_tasks)
    check_eval_suites(config.env, num_tasks_of)
    check_backends(config.runner.logger.logger_backends)
    return experiment


# ------------------------------------------------------------------------------------------------------ execution


def run_steps(steps: Sequence[Step]) -> int:
    """Run what is left to do, in order; the first failure ends the sequence with its exit code."""
    environment = child_environment()
    training = [number for number, step in enumerate(steps, start=1) if step.todo and step.command[0] == TRAIN_SCRIPT]
    with Series([sys.executable, "-m", "rlinf.cli.train_steps"], cwd=REPOSITORY, env=environment) as series:
        for number, step in enumerate(steps, start=1):
            if not step.todo:
                print(f"[{number}/{len(steps)}] {step.title}: done before, skipped ({step.result})", flush=True)
                continue
            for line in describe(step, number, len(steps))[:-1]:
                print(line, flush=True)
            if number in training:
                code = series.run(step.command[1:], is_last=number == training[-1])
            else:
                code = run_child([sys.executable, *step.command], cwd=REPOSITORY, env=environment)
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
