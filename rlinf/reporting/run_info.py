"""``run.json``: what a run was (settings, versions, hardware), written once into its folder and shown by the report."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rlinf.reporting.ledger import utc_now

RUN_INFO_NAME = "run.json"
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "ray",
    "hydra-core",
    "numpy",
    "mujoco",
    "robosuite",
    "hf-libero",
)


class RunInfoError(ValueError):
    """A ``run.json`` that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """One run. ``languages`` maps task ids to instructions; ``config`` is the resolved configuration as plain data."""

    config_name: str = ""
    method: str = ""
    suite: str = ""
    seed: int | None = None
    assets: str = ""
    command: str = ""
    started: str = ""
    languages: dict[int, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)


def describe(
    *,
    config_name: str,
    method: str,
    suite: str,
    seed: int,
    assets: str,
    languages: Mapping[int, str],
    config: Mapping[str, Any],
) -> RunInfo:
    """The run of this process: adds the command line, versions, hardware and the time."""
    return RunInfo(
        config_name=config_name,
        method=method,
        suite=suite,
        seed=seed,
        assets=assets,
        command=shlex.join([Path(sys.executable).name, *sys.argv]),
        started=utc_now(),
        languages=dict(languages),
        config=dict(config),
        versions=versions(),
        hardware=hardware(),
    )


def write(folder: Path, info: RunInfo) -> Path:
    """Write ``run.json`` under a temporary name, then rename it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RUN_INFO_NAME
    entry = dataclasses.asdict(info)
    entry["languages"] = {str(task): text for task, text in sorted(info.languages.items())}
    partial = folder / f".{RUN_INFO_NAME}.{os.getpid()}"
    partial.write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def read(path: Path) -> RunInfo:
    """Read ``run.json``; fields that are absent keep their defaults, fields unknown here are left out."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunInfoError(f"{path} is no JSON ({error}); remove it, the next run writes it again") from error
    if not isinstance(entry, dict):
        raise RunInfoError(f"{path} must hold a JSON object, given {type(entry).__name__}")
    values: dict[str, Any] = {}
    for known in dataclasses.fields(RunInfo):
        if entry.get(known.name) is None:
            continue
        value = entry[known.name]
        kind = int if known.name == "seed" else str if known.type == "str" else dict
        if not isinstance(value, kind):
            raise RunInfoError(f"{path}: {known.name} must be {kind.__name__}, given {value!r}")
        values[known.name] = value
    languages = values.get("languages", {})
    if not all(re.fullmatch(r"\d+", task) for task in languages):
        raise RunInfoError(f"{path}: languages must have task ids as keys, given {sorted(languages)}")
    values["languages"] = {int(task): str(text) for task, text in languages.items()}
    return RunInfo(**values)


def versions() -> dict[str, str]:
    """Versions of Python, of the packages that results depend on, and of this repository's commit."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    commit = _commit()
    return found if commit is None else {**found, "commit": commit}


def hardware() -> dict[str, str]:
    """Processor, cores this process may use, memory and GPUs; no host name."""
    facts = {
        "processor": _proc_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release()}",
    }
    if memory := _proc_value("/proc/meminfo", "MemTotal"):
        facts["memory"] = f"{int(memory.split()[0]) / 2**20:.0f} GiB"
    gpus = _gpus()
    facts["gpu"] = ", ".join(gpus) if gpus else "none"
    return facts


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
    output = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return [line.strip() for line in (output or "").splitlines() if line.strip()]


def _commit() -> str | None:
    root = str(Path(__file__).parents[2])
    commit = _output("git", "-C", root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return None
    changed = _output("git", "-C", root, "status", "--porcelain", "--untracked-files=no")
    return commit + (" (with changes)" if changed else "")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):  # not installed, or hanging: the fact is left out
        return None
    return done.stdout.strip() if done.returncode == 0 else None
