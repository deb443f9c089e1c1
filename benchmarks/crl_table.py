"""The table of continual-learning methods and controls on one suite: runs its cells, keeps their ledgers, shows it.

    bash benchmarks/crl_table.sh SUITE [--rows ROW,...] [--seeds SEED,...] [--minutes N] [--jobs N] [--show]
        [--search [--rates RATE,...]] [--set KEY=VALUE]... [--pictures FOLDER]

A cell is a row with a seed: a launcher's whole sequence; then the policy after the last task on LIBERO-PRO's changes of
the suite, and with ``--demonstrations`` (of all its tasks) what training changed. Its checkpoints stay under
``--work``; its ledgers, metrics and configurations are copied to ``--out``/SUITE/ROW/SEED with the commit, the
hardware and the time it took, which is what a later call skips. Where ``--minutes`` end before a cell does, it is
stopped and goes on in the next call, as launchers do. Several cells at a time share the machine's GPUs, each on one.

With ``--search`` a cell is one task that is not learnt in the table, with one of the learning rates that are tried.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.crl_cells import Cell, run_cells
from benchmarks.crl_pictures import draw
from benchmarks.crl_rows import EPOCHS, PROTOCOL, ROWS, SEARCHED, SUITES, TINY_PROTOCOL, at_rate, command
from benchmarks.crl_shown import changes, lines_of, search_table, table
from libero_runtime.commands import run_command
from libero_runtime.cpus import num_cpus
from rlinf.cli.console import configure_process


def main(argv: Sequence[str]) -> int:
    """Run, or only show; returns the exit code: 0 all is done, 1 a cell failed, 3 the time ended before."""
    configure_process()  # SIGTERM unwinds, so that launchers are ended
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    arguments = _parse(argv)
    cells = list(_cells(arguments))
    failed = False
    if not arguments.show:
        undone = [cell for cell in cells if not cell.is_done]
        failed = not run_cells(undone, jobs=arguments.jobs, minutes=arguments.minutes, commit=arguments.commit)
    if arguments.search:
        print(search_table(arguments.suite, cells))
    else:
        lines = lines_of(cells)
        print(table(arguments.suite, lines), changes(lines), sep="\n\n")
        if arguments.pictures:
            draw(arguments.pictures, arguments.suite, lines)
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
    parser.add_argument("--set", default=[], action="append", help="a setting of all rows that have none of their own")
    parser.add_argument("--rates", default="", help="those of the search alone, separated by commas (all)")
    parser.add_argument("--show", action="store_true", help="print the table so far, run nothing")
    parser.add_argument("--pictures", type=Path, help="a folder for them: the trade-off, success matrices and curves")
    arguments = parser.parse_args(argv)
    unknown = [row for row in arguments.rows.split(",") if row not in ROWS]
    if unknown:
        raise ValueError(f"--rows: {', '.join(unknown)} is not known; expected some of: {', '.join(ROWS)}")
    tried = {rate for rates in SEARCHED.values() for rate in rates}
    if unknown := [rate for rate in arguments.rates.split(",") if rate and rate not in tried]:
        raise ValueError(f"--rates: {', '.join(unknown)} is not tried; expected some of: {', '.join(sorted(tried))}")
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
    rows = [row for row in asked if arguments.show or not ROWS[row].needs or given[ROWS[row].needs]]
    for row in asked:
        if row not in rows:
            print(f"{row}: left out, it needs --{ROWS[row].needs}", file=sys.stderr)
    task = SUITES[arguments.suite].search if arguments.search else None
    shared = _shared(arguments, task)
    chosen = set(filter(None, arguments.rates.split(",")))
    tried = {one: [rate for rate in SEARCHED.get(one, ()) if rate in chosen or not chosen] for one in rows}
    for seed in map(int, arguments.seeds.split(",")):
        for row, rate in ((one, rate) for one in rows for rate in (tried[one] if arguments.search else [""])):
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
                (*words, *at_rate(rate)) if rate else tuple(words),
                logs,
                out / name / f"seed{seed}",
                arguments.suite,
                tuple(settings),
                arguments.pro and not rate,
                None if rate else arguments.demonstrations,
                rate,
                max(1, num_cpus() // arguments.jobs),
            )


def _shared(arguments: argparse.Namespace, task: int | None) -> list[str]:
    """Settings of all cells. task: the only one that is learnt and evaluated."""
    shared = [*(TINY_PROTOCOL if arguments.tiny else PROTOCOL), *arguments.set]
    if task is not None:
        shared += [f"env.eval_task_ids=[{task}]", f"env.eval.episodes_per_task={1 if arguments.tiny else 50}"]
    if arguments.demonstrations:
        shared.append(f"method.replay.demonstrations={arguments.demonstrations.resolve()}")
    # While one cell learns, another's simulators have its cores.
    share = num_cpus() - 1 if arguments.jobs == 1 else round(1.25 * num_cpus() / arguments.jobs)
    return [*shared, f"cluster.num_env_workers={max(1, share)}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
