"""``run.json`` and ``config.yaml``: what a run was, as its folder tells it, for people to read."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from libero_runtime.cpus import num_cpus
from rlinf.config.differences import flat
from rlinf.run_layout import CONFIG_FILE, RUN_FILE

RUN_INFO_NAME = RUN_FILE
CONFIG_NAME = CONFIG_FILE


class RunInfoError(ValueError):
    """A ``run.json`` or ``config.yaml`` that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """One run, in words. What its folder does not tell is empty.

    ``languages`` maps task ids to instructions; ``config`` is the whole configuration by dotted key.
    """

    config_name: str = ""
    method: str = ""
    suite: str = ""
    seed: int | None = None
    overrides: str = ""
    started: str = ""
    languages: dict[int, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)


def read(folder: Path) -> RunInfo | None:
    """What the folder of a run tells; None without ``run.json``. Keys that are unknown here are left out."""
    path = folder / RUN_INFO_NAME
    if not path.is_file():
        return None
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunInfoError(f"{path} is no JSON ({error}); remove it, the next run writes it again") from error
    if not isinstance(entry, dict):
        raise RunInfoError(f"{path} must hold a JSON object, given {type(entry).__name__}")
    seed, overrides, languages = entry.get("seed"), entry.get("overrides") or [], _mapping(path, entry, "languages")
    if seed is not None and not isinstance(seed, int):
        raise RunInfoError(f"{path}: seed must be an integer, given {seed!r}")
    if not isinstance(overrides, list):
        raise RunInfoError(f"{path}: overrides must be a list, given {overrides!r}")
    if not all(re.fullmatch(r"\d+", task) for task in languages):
        raise RunInfoError(f"{path}: languages must have task ids as keys, given {sorted(languages)}")
    return RunInfo(
        config_name=str(entry.get("config_name") or ""),
        method=str(entry.get("method") or ""),
        suite=str(entry.get("suite") or ""),
        seed=seed,
        overrides=shlex.join(map(str, overrides)),
        started=str(entry.get("time") or ""),
        languages={int(task): text for task, text in languages.items()},
        versions=_mapping(path, entry, "versions"),
        hardware=_mapping(path, entry, "hardware"),
        config=_config(folder / CONFIG_NAME),
    )


def hardware() -> dict[str, str]:
    """Processor, cores that this process may use, memory and GPUs; no host name."""
    facts = {"processor": _proc_value("/proc/cpuinfo", "model name") or platform.machine()}
    facts["cores"] = str(num_cpus())
    if memory := _proc_value("/proc/meminfo", "MemTotal"):
        facts["memory"] = f"{int(memory.split()[0]) / 2**20:.0f} GiB"
    facts["gpus"] = ", ".join(_gpus()) or "none"
    return facts


def _mapping(path: Path, entry: Mapping[str, Any], name: str) -> dict[str, str]:
    value = entry.get(name) or {}
    if not isinstance(value, dict):
        raise RunInfoError(f"{path}: {name} must be an object, given {value!r}")
    return {str(key): str(one) for key, one in value.items()}


def _config(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RunInfoError(f"{path} is no YAML: {error}") from error
    pairs = flat(config) if isinstance(config, dict) else {}
    return {key: "null" if value is None else str(value) for key, value in pairs.items()}


def _proc_value(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _gpus() -> list[str]:
    # nvidia-smi instead of torch.cuda: it must not create a CUDA context in the driver process.
    command = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no driver: no GPU of the kind we can use
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
