"""``python examples/embodiment/train_embodied_agent.py --config-name NAME [key=value ...]``: train one run."""

import logging
from collections.abc import Sequence

from rlinf.cli.request import Request, parse
from rlinf.config import RANDOM_ACTION, ConfigError
from rlinf.config.differences import refuse_other_settings
from rlinf.custom.methods import make_method
from rlinf.envs import suite_tasks
from rlinf.envs.registry import simulator
from rlinf.reporting.loggers import check_backends
from rlinf.runners.embodied import EmbodiedRunner, find_state, task_context
from rlinf.runners.run_folder import run_folder, write_run
from rlinf.workers.launch import check_workers, fit_to_gpus
from rlinf.workers.session import Session

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Train; returns the exit code."""
    request = parse(argv, prog="train_embodied_agent.py", description="Train a policy with reinforcement learning.")
    if request is None:
        return 0
    with Session() as session:
        train(request, session)
    return 0


def train(request: Request, session: Session) -> None:
    """Train as asked for, with the session's workers.

    Raises:
        FolderInUseError: another process trains in the same folder.
    """
    config = request.config
    check_backends(config.runner.logger.logger_backends)
    with request.alone():
        if config.rollout.worker == RANDOM_ACTION:
            raise ConfigError(f"rollout.worker={RANDOM_ACTION} learns nothing: evaluate it with eval_embodied_agent.py")
        method = make_method(config.method)  # an unknown method is an error now and not in a worker
        refuse_other_settings(run_folder(config), config)
        state = find_state(config, run_folder(config))
        if state.epoch >= config.runner.max_epochs and not (state.missing_after and config.runner.eval_after):
            log.info("%s: all %d epochs are done", state.folder, config.runner.max_epochs)
            return
        method.check(task_context(config, state))
        sim = simulator(config.env.simulator)
        sim.prepare()
        resources = session.resources(config, request.source)
        config = fit_to_gpus(config, resources)
        check_workers(config, resources)
        write_run(
            state.folder,
            config,
            config_name=request.config_name,
            overrides=request.overrides,
            assets=sim.asset_kind(config.env.suite),
            languages=[task.language for task in suite_tasks(config.env)],
        )
        workers = session.learning_workers(config, request.source)
        runner = EmbodiedRunner(config, workers, state, asset_kind=sim.asset_kind)
        runner.setup()
        runner.run()
        runner.close()
