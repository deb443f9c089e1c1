"""Carry out a plan, in one process: all training shares a cluster and its workers."""

import os
from collections.abc import Sequence

from rlinf.cli.console import REPOSITORY, print_error
from rlinf.cli.evaluate import evaluate
from rlinf.cli.request import check
from rlinf.cli.train import train
from rlinf.custom.sequence.recipe import Step
from rlinf.workers.session import Session


def run_steps(steps: Sequence[Step]) -> int:
    """Do what is left to do, in order; the first failure ends the sequence. Returns the exit code."""
    os.chdir(REPOSITORY)
    with Session() as session:
        for number, step in enumerate(steps, start=1):
            if not step.todo:
                print(step.skipped(number, len(steps)), flush=True)
                continue
            print("\n".join(step.describe(number, len(steps))[:-1]), flush=True)
            try:
                _run(step, session)
            except (KeyboardInterrupt, SystemExit):
                print_error(f"{step.title} was stopped; run the same command again to continue")
                raise
            except Exception as error:
                error.add_note(f"{step.title} failed")
                raise
            if step.result is not None and not (REPOSITORY / step.result).is_dir():
                print_error(f"{step.title} ended without the checkpoint it should have written: {step.result}")
                return 1
    return 0


def _run(step: Step, session: Session) -> None:
    """Do what the step's command does."""
    _, _, config_name, *overrides = step.command
    request = check(step.config, config_name=config_name, overrides=overrides, learns=step.learns)
    if step.learns:
        train(request, session)
    else:
        evaluate(request)
