"""``run.json`` and ``config.yaml``: what a run was, as its folder tells it, for people to read."""

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from libero_runtime.cpus import num_cpus
from rlinf.config.differences import recorded
from rlinf.reporting import ReportingError
from rlinf.run_layout import CONFIG_FILE, RUN_FILE


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """One run, in words. What its folder does not tell is empty.

    ``languages`` maps task ids to instructions; ``config`` is the whole configuration by dotted key.
    """

    config_name: str = ""
    method: str = ""
    suite: str = ""
    overrides: str = ""
    started: str = ""
    languages: dict[int, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)


def read(folder: Path) -> RunInfo | None:
    """What the folder of a run tells; None without ``run.json``. Keys that are unknown here are left out."""
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return RunInfo(
            config_name=entry.get("config_name") or "",
            method=entry.get("method") or "",
            suite=entry.get("suite") or "",
            overrides=shlex.join(entry.get("overrides") or []),
            started=entry.get("time") or "",
            languages={int(task): str(text) for task, text in _texts(entry, "languages").items()},
            versions=_texts(entry, "versions"),
            hardware=_texts(entry, "hardware"),
            config=_config(folder),
        )
    except (ValueError, TypeError, AttributeError) as error:  # no JSON, or of another shape
        raise ReportingError(f"{path} cannot be read ({error}); remove it, the next run writes it again") from error


def _texts(entry: Mapping[str, Any], name: str) -> dict[str, str]:
    return {key: str(value) for key, value in (entry.get(name) or {}).items()}


def hardware() -> dict[str, str]:
    """Processor, cores that this process may use, memory and GPUs; no host name."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": str(num_cpus()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "gpus": ", ".join(_gpus()) or "none",
    }


def _config(folder: Path) -> dict[str, str]:
    try:
        pairs = recorded(folder)
    except yaml.YAMLError as error:
        raise ReportingError(f"{folder / CONFIG_FILE} is no YAML: {error}") from error
    return {key: "null" if value is None else str(value) for key, value in pairs.items()}


def _gpus() -> list[str]:
    # nvidia-smi instead of torch.cuda: it must not create a CUDA context in the driver process.
    command = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no driver: no GPU of the kind we can use
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
