"""A run's folder: what was run, from where it started, and the ledger it reports to.

<log_root>/<method>/evaluations.jsonl                      every evaluation of the sequence
<log_root>/<method>/task_<ids>_seed<seed>/run.json         settings, versions, machine
                                         /config.yaml      the whole configuration
                                         /metrics.jsonl    one line per epoch
                                         /checkpoints/global_step_<n>/actor/
                                         /videos/
"""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rlinf.config import REPOSITORY, Config, config_hash, config_yaml
from rlinf.config.differences import CONFIG_FILE
from rlinf.custom.task_sequence import DEFAULT_LOG_ROOT, DEFAULT_SUITE
from rlinf.reporting.ledger import utc_now
from rlinf.reporting.run_info import hardware

LEDGER_FILE = "evaluations.jsonl"
_RECORDED = ("torch", "transformers", "peft", "ray", "mujoco", "robosuite", "hf-libero", "numpy")


def task_tag(task_ids: Sequence[int] | None) -> str:
    """``task_3`` for one task, ``tasks_0_2`` for several, ``tasks_all``."""
    if task_ids is None:
        return "tasks_all"
    joined = "_".join(map(str, task_ids))
    return f"task_{joined}" if len(task_ids) == 1 else f"tasks_{joined}"


def run_folder(config: Config) -> Path:
    """The configured folder of this run, absolute; relative paths start at the repository's root."""
    log = config.runner.logger
    root = log.log_root
    if root == DEFAULT_LOG_ROOT and config.env.suite != DEFAULT_SUITE:
        root = f"{root}_{config.env.suite}"
    path = log.log_path or f"{root}/{config.method.results_name}/{task_tag(config.env.fixed_task_ids)}" + (
        f"_seed{config.runner.seed}"
    )
    return Path(path) if Path(path).is_absolute() else REPOSITORY / path


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
    (folder / CONFIG_FILE).write_text(config_yaml(config))
    record = {
        "config_name": config_name,
        "overrides": list(overrides),
        "config_hash": config_hash(config),
        "method": config.method.results_name,
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
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n")
