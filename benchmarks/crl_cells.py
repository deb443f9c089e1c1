"""Cells of the results table: run some at a time, each on one GPU, keep what they leave, stop in time."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.crl_after import LastPolicy, diagnosis, evaluation
from benchmarks.gpus import visible_gpus
from libero_runtime.commands import naming
from rlinf.reporting.report import collect
from rlinf.reporting.report.columns import COLUMNS
from rlinf.reporting.report.compare import MethodRuns
from rlinf.reporting.run_info import hardware
from rlinf.run_layout import CONFIG_FILE, DIAGNOSTICS_FILE, LEDGER_FILE, METRICS_FILE

REPOSITORY = Path(__file__).resolve().parents[1]
KEPT = (LEDGER_FILE, DIAGNOSTICS_FILE, METRICS_FILE, CONFIG_FILE)
CELL = "cell.json"
STOP_S = 60.0  # for a launcher to save what it is at and end


@dataclass(frozen=True)
class Cell:
    """One run of the table.

    command: the launcher's; logs: its; out: what is kept of it. settings: of the launcher, which evaluations share.
    is_perturbed: the last policy is evaluated on LIBERO-PRO's changes of the suite. demonstrations: to say what
    training changed; None: not said. threads: of the processor, its share.
    """

    row: str
    seed: int
    command: tuple[str, ...]
    logs: Path
    out: Path
    suite: str = ""
    settings: tuple[str, ...] = ()
    is_perturbed: bool = False
    demonstrations: Path | None = None
    learning_rate: str = ""
    threads: int = 1

    @property
    def name(self) -> str:
        return f"{self.row} seed {self.seed}{self.learning_rate and f' lr {self.learning_rate}'}"

    @property
    def is_done(self) -> bool:
        return (self.out / CELL).is_file()

    def after(self) -> list[str] | None:
        """What is to be run next once the launcher has ended; None: nothing."""
        policy = LastPolicy.of(self.logs, self.suite)
        if policy is not None and self.is_perturbed and policy.perturbed:
            return evaluation(policy, self.row, self.settings)
        if policy is not None and self.demonstrations and not policy.is_diagnosed:
            return diagnosis(policy, self.demonstrations, threads=self.threads)
        return None


def run_cells(cells: Sequence[Cell], *, jobs: int, minutes: float | None, commit: str) -> bool:
    """Run cells, ``jobs`` at a time, until they are done or the time ends; whether none failed. Leaves nothing running.

    commit: of the code; empty: what git says.
    """
    deadline = time.monotonic() + 60 * minutes - STOP_S if minutes else float("inf")
    waiting, running, good, longest = list(cells), list[_Running](), True, 0.0
    gpus = visible_gpus()
    try:
        while (waiting or running) and time.monotonic() < deadline:
            # Nothing is begun that would be stopped before it has a checkpoint to go on from.
            while waiting and len(running) < jobs and time.monotonic() + 0.5 * longest < deadline:
                taken = [job.gpu for job in running]
                gpu = min(gpus, key=taken.count) if gpus else None
                running.append(_Running.start(waiting[0], waiting.pop(0).command, gpu))
            if not running:
                break
            time.sleep(0.5)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                seconds, code = job.seconds(), job.process.returncode
                following = None if code else job.cell.after()
                if code or following == list(job.command):
                    good = False
                    why = f"failed with exit code {code}" if code else "left undone what it was to do"
                    print(f"{job.cell.name}: {why}; see {job.log}", flush=True)
                    continue
                if following is not None:
                    running.append(_Running.start(job.cell, following, job.gpu))
                    continue
                longest = max(longest, seconds)
                keep(job.cell, seconds, commit=commit or _commit())
                done = sum(one.is_done for one in cells)
                print(f"[{done}/{len(cells)}] {job.cell.name}: {seconds:.0f} s, {_numbers(job.cell)}", flush=True)
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.end()
            print(f"{job.cell.name}: stopped after {job.seconds():.0f} s, the next call goes on", flush=True)
    return good


@dataclass
class _Running:
    """A command of a cell that is being run. gpu: the only one that it sees; None: the machine has none."""

    cell: Cell
    command: Sequence[str]
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    gpu: str | None

    @staticmethod
    def start(cell: Cell, command: Sequence[str], gpu: str | None) -> _Running:
        cell.logs.mkdir(parents=True, exist_ok=True)
        log = cell.logs / "launcher.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return _Running(cell, command, process, log, time.monotonic(), gpu)

    def end(self) -> None:
        """Wait for a launcher that was told to end; what is left of it after a minute is killed."""
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def seconds(self) -> float:
        """How long the cell has taken, with its earlier commands and the calls in which it was stopped or failed; once,
        when it ends."""
        file = self.cell.logs / "seconds.txt"
        before = float(file.read_text()) if file.is_file() else 0.0
        total = before + time.monotonic() - self.started
        file.write_text(f"{total:.1f}\n")
        return total


def keep(cell: Cell, seconds: float, *, commit: str) -> None:
    """Copy ledgers, metrics and configurations of a finished cell, and say where they are from."""
    with naming(cell.out):
        if cell.out.exists():  # half of it, from a call that was ended here
            shutil.rmtree(cell.out)
        for path in sorted(path for name in KEPT for path in cell.logs.rglob(name)):
            there = cell.out / path.relative_to(cell.logs)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)
        words = [word.replace(str(REPOSITORY), ".") for word in cell.command]
        about: dict[str, Any] = {
            "row": cell.row,
            "seed": cell.seed,
            "seconds": round(seconds),
            "command": shlex.join(words),
            "commit": commit,
            "hardware": hardware(),
        }
        (cell.out / CELL).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _commit() -> str:
    """What git says of the code; "unknown" where this is no checkout."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _numbers(cell: Cell) -> str:
    """A cell's own AVG and NBT, of its first temperature."""
    experiments = [one for one in collect([cell.out]) if one.matrix]
    if not experiments:
        return "no success matrix: the learnt tasks were not evaluated"
    runs = MethodRuns.of(max(experiments, key=lambda one: one.records[-1].temperature))
    found = {column.name: runs.cell(column) for column in COLUMNS if column.key in ("avg", "nbt")}
    return ", ".join(f"{name} {100 * one.value:.1f}" for name, one in found.items() if one is not None)
