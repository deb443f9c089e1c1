"""``python examples/embodiment/train_embodied_agent.py --config-name NAME [key=value ...]``: train one run."""

import argparse
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rlinf.config import Config, config_yaml, load_config, resolve_adapter, resolve_model, validate
from rlinf.config.compose import CONFIG_FOLDER

log = logging.getLogger(__name__)

DEFAULT_CONFIG = "crl_experiment/libero_spatial_grpo_openvlaoft_spatial"


@dataclass(frozen=True)
class Request:
    """A checked command line: nothing was started or written yet."""

    config: Config
    config_name: str
    overrides: tuple[str, ...]
    model: Path
    adapter: Path | None


def parse(argv: Sequence[str], *, prog: str, description: str) -> Request | None:
    """Compose and check the configuration; None when the user only asked to see it (``--cfg``)."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--config-name", default=DEFAULT_CONFIG, help="configuration below --config-path")
    parser.add_argument("--config-path", type=Path, default=CONFIG_FOLDER, help="folder of configurations")
    parser.add_argument("--cfg", action="store_true", help="print the composed configuration and stop")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, key=value")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config_name, arguments.overrides, folder=arguments.config_path.resolve())
    if arguments.cfg:
        print(config_yaml(config), end="")
        return None
    from rlinf.envs import suite_tasks  # reads the suite's files: only now that the configuration is known to be good

    model = resolve_model(config.actor.checkpoint_load_path, key="actor.checkpoint_load_path")
    validate(config, num_tasks=len(suite_tasks(config.env)))
    adapter = resolve_adapter(config.actor.model.lora_path) if config.actor.model.lora_path else None
    return Request(config, arguments.config_name, tuple(arguments.overrides), model, adapter)


def configure_process() -> None:
    """Log lines with a time; SIGTERM unwinds like Ctrl-C, so that workers are ended."""
    line = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=line, datefmt="%H:%M:%S")
    for noisy in ("httpx", "OpenGL", "matplotlib", "robosuite_logs"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def main(argv: Sequence[str]) -> int:
    """Train; returns the exit code."""
    request = parse(argv, prog="train_embodied_agent.py", description="Train a policy with reinforcement learning.")
    if request is None:
        return 0
    configure_process()
    from rlinf.envs import suite_tasks
    from rlinf.envs.registry import simulator
    from rlinf.runners.embodied import EmbodiedRunner, find_state
    from rlinf.runners.run_folder import run_folder, write_run
    from rlinf.scheduler import Cluster
    from rlinf.workers.launch import count_workers, start_workers

    config = request.config
    state = find_state(config, run_folder(config))
    if state.epoch >= config.runner.max_epochs and (state.evaluated_after or not config.runner.eval_after):
        log.info("%s: all %d epochs are done", state.folder, config.runner.max_epochs)
        return 0
    sim = simulator(config.env.simulator)
    sim.prepare()
    with Cluster(object_store_gb=config.cluster.object_store_gb) as cluster:
        resources = cluster.resources
        count_workers(config, resources)
        write_run(
            state.folder,
            config,
            config_name=request.config_name,
            overrides=request.overrides,
            assets=sim.asset_kind(),
            languages=[task.language for task in suite_tasks(config.env)],
        )
        workers = start_workers(config, resources, checkpoint=request.model, learn=True)
        runner = EmbodiedRunner(config, workers, state, assets=sim.asset_kind())
        runner.setup()
        runner.run()
    return 0
