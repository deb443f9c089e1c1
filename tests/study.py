"""Logs of a study as the launchers leave them behind: several methods, seeds, five tasks learnt out of ten."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlinf.reporting import ledger
from rlinf.reporting.ledger import EvaluationRecord
from rlinf.reporting.loggers import MetricLogger
from rlinf.run_layout import LEDGER_FILE

PLACES = (
    "between the plate and the ramekin", "next to the ramekin", "from table center", "on the cookie box",
    "in the top drawer of the wooden cabinet", "on the ramekin", "next to the cookie box", "on the stove",
    "next to the plate", "on the wooden cabinet",
)  # fmt: skip
LANGUAGES = {
    str(task): f"pick up the black bowl {place} and place it on the plate" for task, place in enumerate(PLACES)
}
BASE = np.array([0.44, 0.52, 0.40, 0.62, 0.18, 0.36, 0.50, 0.58, 0.46, 0.24])
# Method: what a task gains by its training, what one later stage takes away, what one stage does to other tasks.
METHODS = {
    "sequential": (0.40, 0.045, 0.010),
    "ewc": (0.28, 0.015, 0.004),
    "er": (0.38, 0.020, 0.012),
    "der": (0.37, 0.015, 0.010),
    "weight_merge": (0.30, 0.010, 0.006),
    "slca": (0.34, 0.030, 0.008),
}
SETTINGS: dict[str, dict[str, object]] = {
    "er": {"method": {"name": "er", "replay": {"coeff": 0.03, "tasks": "one"}}},
    "slca": {"method": {"name": "slca"}, "actor": {"optim": {"lr": 4e-5}, "global_batch_size": 8192}},
}
EPISODES = 50
EPOCHS = 6


def write_study(
    logs: Path, *, methods: tuple[str, ...] = tuple(METHODS), seeds: tuple[int, ...] = (1, 2, 3), num_tasks: int = 5
) -> Path:
    """One folder per method, all seeds in one ledger, as ``logs/<method>/``."""
    for method in methods:
        for seed in seeds:
            if method == "multitask":
                _write_joint(logs / method, seed, tuple(range(num_tasks)))
            else:
                _write_sequence(logs / method, method, seed, num_tasks)
    return logs


def write_sets(logs: Path, sets: tuple[tuple[int, ...], ...], *, seed: int = 1) -> Path:
    """Sets of tasks, each learnt together, as ``logs/multitask/tasks_<ids>/``."""
    for tasks in sets:
        _write_joint(logs / "multitask", seed, tasks)
    return logs


def write_record(
    folder: Path,
    method: str,
    seed: int,
    learnt: tuple[int, ...],
    rates: Sequence[float] | np.ndarray,
    *,
    row: str = "",
    scale: float = 1.0,
    episodes: int = EPISODES,
    **changes: Any,
) -> EvaluationRecord:
    """One evaluation over tasks from 0 on; ``scale`` other than 1 makes it a probe."""
    row = row or (f"task_{learnt[-1]}" if learnt else "base")
    rates = np.asarray(rates)
    success = dict(enumerate(rates.tolist()))
    record = EvaluationRecord(
        method=method,
        row=row,
        learnt_tasks=learnt,
        seed=seed,
        suite="libero_spatial",
        checkpoint=f"{row}_seed{seed}/global_step_{EPOCHS}" if learnt else "base",
        success=success,
        episodes=dict.fromkeys(success, episodes),
        success_once=float(rates.mean()),
        success_at_end=float(rates.mean()),
        mean_return=5 * float(rates.mean()),
        mean_episode_len=150.0,
        temperature=1.6,
        assets="altered 1ef524f5e7df",
        config_hash="5f0c1d2e3a4b",
        versions={"torch": "2.13.0"},
        time="2026-05-04T10:20:30+00:00",
        wall_seconds=75.0,
        decoding="sample",
        init_states=dict.fromkeys(success, "0-49"),
        lora_scale=scale,
        probe=scale != 1.0,
    )
    record = dataclasses.replace(record, **changes)
    ledger.append(folder / LEDGER_FILE, record)
    return record


def write_scales(logs: Path, method: str, seeds: tuple[int, ...], scales: tuple[float, ...]) -> None:
    """Evaluations of the last adapter under other scales: best near 1, half of the gain at a half."""
    for seed in seeds:
        folder = logs / method
        final = ledger.rows([one for one in ledger.read(folder / LEDGER_FILE) if one.seed == seed])[-1]
        rates = np.array([final.success[task] for task in sorted(final.success)])
        for scale in scales:
            gain = 1 - (1 - scale) ** 2
            scaled = np.round(np.clip(BASE + gain * (rates - BASE), 0, 1) * EPISODES) / EPISODES
            write_record(folder, method, seed, final.learnt_tasks, scaled, scale=scale)


def _write_sequence(folder: Path, method: str, seed: int, num_tasks: int) -> None:
    rng = np.random.default_rng([seed, sum(method.encode())])
    gain, loss, spill = METHODS[method]
    rates = BASE + rng.normal(0, 0.01, size=10)
    write_record(folder, method, seed, (), _measure(rng, rates))
    for task in range(num_tasks):
        before = rates.copy()
        rates[:task] -= loss * (1 + rng.random(task))
        rates[task + 1 :] += spill * (1 + rng.random(9 - task))
        rates[task] = before[task] + (0.97 - before[task]) * min(1.0, gain / 0.45)
        _write_training(folder, method, seed, (task,), float(before[task]), float(rates[task]))
        write_record(folder, method, seed, tuple(range(task + 1)), _measure(rng, rates))


def _write_joint(logs: Path, seed: int, tasks: tuple[int, ...]) -> None:
    rng = np.random.default_rng([seed, 99])
    row = "tasks_" + "_".join(map(str, tasks))
    folder = logs / row
    write_record(folder, "multitask", seed, (), _measure(rng, BASE))
    rates = BASE.copy()
    rates[list(tasks)] = 0.94
    _write_training(folder, "multitask", seed, tasks, 0.45, 0.94)
    write_record(folder, "multitask", seed, tasks, _measure(rng, rates), row=row)


def _measure(rng: np.random.Generator, rates: np.ndarray) -> np.ndarray:
    measured: np.ndarray = rng.binomial(EPISODES, np.clip(rates, 0, 1)) / EPISODES
    return measured


def _write_training(folder: Path, method: str, seed: int, tasks: tuple[int, ...], before: float, after: float) -> None:
    rng = np.random.default_rng([seed, *tasks])
    name = f"task{'s' if len(tasks) > 1 else ''}_{'_'.join(map(str, tasks))}_seed{seed}"
    with MetricLogger(folder / name, backends=[], project="p", experiment="e", config={}) as log:
        for epoch in range(1, EPOCHS + 1):
            progress = 1 - np.exp(-epoch / 2)
            success = float(np.clip(before + (after - before) * progress + rng.normal(0, 0.02), 0, 1))
            metrics = {
                "rollout/success_rate": success,
                "train/entropy": 2.2 - 0.5 * progress,
                "train/approx_kl": 0.004 + 0.003 * rng.random(),
                "time/epoch": 32.5,
            }
            if epoch % 3 == 0 and len(tasks) == 1:
                metrics[f"eval/env_info/task_{tasks[0]}_success"] = round(success * EPISODES) / EPISODES
            log.log(metrics, step=epoch)
    record = {
        "config_name": "crl_experiment/libero_spatial_grpo_tiny",
        "overrides": [f"env.fixed_task_ids=[{tasks[0]}]"],
        "method": method,
        "suite": "libero_spatial",
        "seed": seed,
        "languages": LANGUAGES,
        "versions": {"torch": "2.13.0"},
        "hardware": {"cores": "16", "gpus": "NVIDIA H200"},
        "time": "2026-05-04T10:00:00+00:00",
    }
    (folder / name / "run.json").write_text(json.dumps(record))
    config = {
        "runner": {"seed": seed, "max_epochs": EPOCHS, "logger": {"log_path": str(folder / name)}},
        "method": {"name": method},
        "env": {"fixed_task_ids": list(tasks)},
        "actor": {"optim": {"lr": 2e-5}, "global_batch_size": 8192},
    }
    (folder / name / "config.yaml").write_text(yaml.safe_dump(config | SETTINGS.get(method, {})))
