"""The table of continual-learning methods and controls on one suite: runs its cells, keeps their ledgers, shows it.

    bash benchmarks/crl_table.sh SUITE [--rows ROW,...] [--seeds SEED,...] [--minutes N] [--jobs N] [--search] [--show]

A cell is a row with a seed: a launcher's whole sequence; then the policy after the last task on LIBERO-PRO's changes of
the suite, and with ``--demonstrations`` (of all its tasks) what training changed. Its checkpoints stay under
``--work``; its ledgers, metrics and configurations are copied to ``--out``/SUITE/ROW/SEED with the commit, the
hardware and the time it took, which is what a later call skips. Where ``--minutes`` end before a cell does, it is
stopped and goes on in the next call, as launchers do. Several cells at a time share the machine's GPUs, each on one.

With ``--search`` a cell is one task that is not learnt in the table, with one of the learning rates that are tried.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.crl_after import LastPolicy, diagnosis, evaluation
from benchmarks.crl_rows import EPOCHS, PROTOCOL, ROWS, SEARCHED, SUITES, TINY_PROTOCOL, command
from libero_runtime.commands import naming, run_command
from libero_runtime.cpus import num_cpus
from rlinf.cli.console import configure_process
from rlinf.reporting import ledger
from rlinf.reporting.report import collect
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.columns import COLUMNS, further_suites, suite_column
from rlinf.reporting.report.compare import MethodRuns
from rlinf.reporting.run_info import hardware
from rlinf.run_layout import CONFIG_FILE, DIAGNOSTICS_FILE, LEDGER_FILE, METRICS_FILE

REPOSITORY = Path(__file__).resolve().parents[1]
KEPT = (LEDGER_FILE, DIAGNOSTICS_FILE, METRICS_FILE, CONFIG_FILE)
SHOWN = ("base", "avg", "nbt", "fwt", "zero_shot")
CELL = "cell.json"
STOP_S = 60.0  # for a launcher to save what it is at and end


@dataclass(frozen=True)
class Cell:
    """One run of the table.

    command: the launcher's; logs: its; out: what is kept of it. settings: of the launcher, which evaluations share.
    is_perturbed: the last policy is evaluated on LIBERO-PRO's changes of the suite. demonstrations: to say what
    training changed; None: not said.
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
            return diagnosis(policy, self.demonstrations)
        return None


def main(argv: Sequence[str]) -> int:
    """Run, or only show; returns the exit code: 0 all is done, 1 a cell failed, 3 the time ended before."""
    configure_process()  # SIGTERM unwinds, so that launchers are ended
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    arguments = _parse(argv)
    cells = list(_cells(arguments))
    failed = False
    if not arguments.show:
        failed = not run_cells([cell for cell in cells if not cell.is_done], arguments)
    print(search_table(arguments.suite, cells) if arguments.search else table(arguments.suite, cells))
    return 1 if failed else 0 if arguments.show or all(cell.is_done for cell in cells) else 3


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bash benchmarks/crl_table.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=SUITES, nargs="?", default="libero_spatial")
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas, in this order (all)")
    parser.add_argument("--seeds", default="1234,1235,1236", help="separated by commas (%(default)s)")
    parser.add_argument("--minutes", type=float, help="end in time; without it every cell is run to its end")
    parser.add_argument("--jobs", type=int, default=1, help="cells at the same time (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("logs/crl_table"), help="checkpoints (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/results/crl"), help="what is kept (%(default)s)")
    parser.add_argument("--model", type=Path, help="base model; without it the suite's own")
    parser.add_argument("--scratch", type=Path, help="policy without pretraining, for the rows that need one")
    parser.add_argument("--demonstrations", type=Path, help="folder of expert demonstrations, for rows that need them")
    parser.add_argument(
        "--pro",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="evaluate LIBERO-PRO's changes of the suite after the last task (yes)",
    )
    parser.add_argument("--commit", default="", help="of the code, where git cannot tell")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each task (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="two short episodes of everything, to try it")
    parser.add_argument(
        "--search", action="store_true", help="try learning rates on one task that the table leaves out"
    )
    parser.add_argument("--show", action="store_true", help="print the table so far, run nothing")
    arguments = parser.parse_args(argv)
    unknown = [row for row in arguments.rows.split(",") if row not in ROWS]
    if unknown:
        raise ValueError(f"--rows: {', '.join(unknown)} is not known; expected some of: {', '.join(ROWS)}")
    seeds = arguments.seeds.split(",")
    if not all(seed.isdigit() for seed in seeds):
        raise ValueError(f"--seeds {arguments.seeds} must be whole numbers, separated by commas")
    if arguments.jobs < 1 or arguments.epochs < 1:
        raise ValueError(f"--jobs {arguments.jobs} and --epochs {arguments.epochs} must be at least 1")
    return arguments


def _cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    """Seed by seed, so that an unfinished table has whole columns of methods first."""
    work, out = (Path(folder).resolve() / arguments.suite for folder in (arguments.work, arguments.out))
    given = {"demonstrations": arguments.demonstrations, "scratch": arguments.scratch}
    asked = [row for row in arguments.rows.split(",") if row in SEARCHED or not arguments.search]
    rows = [row for row in asked if not ROWS[row].needs or given[ROWS[row].needs]]
    for row in asked:
        if row not in rows:
            print(f"{row}: left out, it needs --{ROWS[row].needs}", file=sys.stderr)
    task = SUITES[arguments.suite].search if arguments.search else None
    shared = _shared(arguments, task)
    for seed in map(int, arguments.seeds.split(",")):
        for row, rate in ((one, rate) for one in rows for rate in (SEARCHED[one] if arguments.search else ("",))):
            name = f"search/{row}_lr_{rate}" if rate else row
            logs, settings = work / f"{name}_seed{seed}", list(shared)
            model = arguments.scratch if ROWS[row].needs == "scratch" else arguments.model
            if model:
                settings.append(f"actor.checkpoint_load_path={model.resolve()}")
            epochs = 1 if arguments.tiny else arguments.epochs
            words = command(row, arguments.suite, seed=seed, logs=logs, settings=settings, epochs=epochs, task=task)
            yield Cell(
                row,
                seed,
                (*words, f"actor.optim.lr={rate}") if rate else tuple(words),
                logs,
                out / name / f"seed{seed}",
                arguments.suite,
                tuple(settings),
                arguments.pro and not rate,
                None if rate else arguments.demonstrations,
                rate,
            )


def _shared(arguments: argparse.Namespace, task: int | None) -> list[str]:
    """Settings of all cells. task: the only one that is learnt and evaluated."""
    shared = list(TINY_PROTOCOL if arguments.tiny else PROTOCOL)
    if task is not None:
        shared += [f"env.eval_task_ids=[{task}]", f"env.eval.episodes_per_task={1 if arguments.tiny else 50}"]
    if arguments.demonstrations:
        shared.append(f"method.replay.demonstrations={arguments.demonstrations.resolve()}")
    # While one cell learns, another's simulators have its cores.
    share = num_cpus() - 1 if arguments.jobs == 1 else round(1.25 * num_cpus() / arguments.jobs)
    return [*shared, f"cluster.num_env_workers={max(1, share)}"]


def run_cells(cells: Sequence[Cell], arguments: argparse.Namespace) -> bool:
    """Run cells, some at a time, until they are done or the time ends; whether none failed. Leaves nothing running."""
    deadline = time.monotonic() + 60 * arguments.minutes - STOP_S if arguments.minutes else float("inf")
    waiting, running, good, longest = list(cells), list[_Running](), True, 0.0
    gpus = visible_gpus()
    try:
        while (waiting or running) and time.monotonic() < deadline:
            # Nothing is begun that would be stopped before it has a checkpoint to go on from.
            while waiting and len(running) < arguments.jobs and time.monotonic() + 0.5 * longest < deadline:
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
                keep(job.cell, seconds, commit=arguments.commit or _commit())
                done = sum(one.is_done for one in cells)
                print(f"[{done}/{len(cells)}] {job.cell.name}: {seconds:.0f} s, {_numbers(job.cell)}", flush=True)
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.end()
            print(f"{job.cell.name}: stopped after {job.seconds():.0f} s, the next call goes on", flush=True)
    return good


def visible_gpus() -> list[str]:
    """The GPUs that this program may use, as CUDA_VISIBLE_DEVICES names them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


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


def table(suite: str, cells: Sequence[Cell]) -> str:
    """Markdown: a line per row and temperature, mean over seeds with its 95 % interval, in percent; success on
    LIBERO-PRO's suites after the last task where any row was evaluated there."""
    found: dict[tuple[str, float], list[Experiment]] = {}
    for row in dict.fromkeys(cell.row for cell in cells):
        done = [cell for cell in cells if cell.row == row and cell.is_done]
        experiments = [one for one in collect([cell.out for cell in done]) if one.matrix] if done else []
        for one in sorted(experiments, key=lambda one: -one.records[-1].temperature):
            found.setdefault((row, one.records[-1].temperature), []).append(one)
    suites = further_suites(one for experiments in found.values() for one in experiments)
    columns = [column for key in SHOWN for column in COLUMNS if column.key == key]
    columns += [suite_column(one, suite) for one in suites]
    head = ["", "evaluated", "seeds", *(column.name for column in columns)]
    lines = [f"{suite}: tasks {SUITES[suite].first} to {SUITES[suite].last} in sequence", ""]
    lines += ["| " + " | ".join(head) + " |", "|---|---|---:|" + "---:|" * len(columns)]
    for (row, temperature), experiments in found.items():
        runs = MethodRuns.of(*experiments)
        shown = []
        for column in columns:
            cell = runs.cell(column)
            ends = [] if cell is None else [end for end in (cell.low, cell.high) if end is not None]
            spread = f" [{', '.join(f'{100 * end:.0f}' for end in ends)}]" if ends else ""
            shown.append("" if cell is None else f"{100 * cell.value:.1f}{spread}")
        way = "greedy" if temperature == 0 else f"sampled at {temperature:g}"
        lines.append("| " + " | ".join([ROWS[row].title, way, str(len(runs.seeds)), *shown]) + " |")
    return "\n".join(lines)


def search_table(suite: str, cells: Sequence[Cell]) -> str:
    """Markdown: success on the one task before and after learning it with each rate, sampled and greedy, in percent."""
    lines = [f"{suite}: task {SUITES[suite].search} alone", "", "| | learning rate | evaluated | before | after |"]
    lines.append("|---|---:|---|---:|---:|")
    for cell in (cell for cell in cells if cell.is_done):
        for path in sorted(cell.out.rglob(LEDGER_FILE)):
            records = ledger.read(path)
            for temperature in sorted({record.temperature for record in records}, reverse=True):
                found = [100 * one.success_once for one in records if one.temperature == temperature]
                way = "greedy" if temperature == 0 else f"sampled at {temperature:g}"
                cell_numbers = f"{found[0]:.0f} | {found[-1]:.0f}"
                lines.append(f"| {ROWS[cell.row].title} | {cell.learning_rate} | {way} | {cell_numbers} |")
    return "\n".join(lines)


def _numbers(cell: Cell) -> str:
    """A cell's own AVG and NBT, of its first temperature."""
    experiments = [one for one in collect([cell.out]) if one.matrix]
    if not experiments:
        return "no success matrix: the learnt tasks were not evaluated"
    runs = MethodRuns.of(max(experiments, key=lambda one: one.records[-1].temperature))
    found = {column.name: runs.cell(column) for column in COLUMNS if column.key in ("avg", "nbt")}
    return ", ".join(f"{name} {100 * one.value:.1f}" for name, one in found.items() if one is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
