"""Find what a report shows: ledgers, training metrics, run descriptions and videos below some folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlinf.reporting import ReportingError, diagnoses, ledger, run_info
from rlinf.reporting.diagnoses import Diagnosis
from rlinf.reporting.ledger import EvaluationRecord
from rlinf.reporting.loggers import read_metrics
from rlinf.reporting.metrics import SuccessMatrix
from rlinf.reporting.report.names import method_name, suite_name
from rlinf.reporting.run_info import RunInfo
from rlinf.run_layout import DIAGNOSTICS_FILE, LEDGER_FILE, METRICS_FILE, RUN_FILE, step_of, tasks_and_seed


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The training of one stage: its folder, the tasks trained on (none: all) and what was logged by epoch."""

    folder: Path
    tasks: tuple[int, ...]
    seed: int
    metrics: dict[int, dict[str, float]]
    info: RunInfo | None

    @property
    def epochs(self) -> range:
        """Numbers of the epochs trained; evaluations may be logged outside of them."""
        trained = [step for step, values in self.metrics.items() if any(_is_training(name) for name in values)]
        return range(trained[0], trained[-1] + 1) if trained else range(0)

    def series(self, name: str) -> list[tuple[float, float]]:
        """(epoch from 1 on, value) of one metric, where it was logged."""
        return [
            (float(step - self.epochs.start + 1), values[name])
            for step, values in self.metrics.items()
            if name in values
        ]


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video file and the row of the success matrix it belongs to ("" when unknown)."""

    path: Path
    row: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One method with one seed on one suite: what a section of the report is about.

    ``records`` holds the last evaluation of each row in the order of learning. ``matrix`` is None when the rows
    cannot share one; ``matrix_problem`` then says why. ``probes`` are evaluations of changed policies, such as other
    LoRA scales. ``further`` holds evaluations of the same rows on other suites, by suite. ``diagnoses`` say what
    training had changed after a row, in the order of learning.
    """

    folder: Path
    method: str
    suite: str
    seed: int
    training: tuple[TrainingRun, ...]
    info: RunInfo | None
    videos: tuple[Video, ...]
    records: tuple[EvaluationRecord, ...] = ()
    matrix: SuccessMatrix | None = None
    matrix_problem: str = "nothing has been evaluated yet"
    probes: tuple[EvaluationRecord, ...] = ()
    further: Mapping[str, tuple[EvaluationRecord, ...]] = field(default_factory=dict)
    diagnoses: tuple[Diagnosis, ...] = ()

    @property
    def title(self) -> str:
        """Method and suite."""
        return f"{method_name(self.method)} on {suite_name(self.suite)}"

    @property
    def name(self) -> str:
        """Method, suite and seed."""
        return f"{self.title}, seed {self.seed}"

    @property
    def languages(self) -> dict[int, str]:
        """Task instructions, as far as any run of the experiment noted them."""
        known: dict[int, str] = {}
        for info in (self.info, *(run.info for run in self.training)):
            known.update(info.languages if info else {})
        return known


def collect(folders: Sequence[Path]) -> list[Experiment]:
    """All experiments below the folders, ordered by method, suite and seed."""
    for folder in folders:
        if not folder.is_dir():
            raise ReportingError(f"{folder} is no folder; give folders of results such as logs/quickstart")
    ledgers = _find(folders, LEDGER_FILE)
    runs = _training_runs(folders)
    experiments = []
    claimed: set[Path] = set()
    for path in ledgers:
        below = [run for run in runs if run.folder.is_relative_to(path.parent)]
        claimed.update(run.folder for run in below)
        experiments += _experiments_of(path, below)
    orphans: dict[tuple[Path, int], list[TrainingRun]] = {}
    for run in runs:
        if run.folder not in claimed:
            orphans.setdefault((run.folder.parent, run.seed), []).append(run)
    experiments += [_without_ledger(folder, seed, group) for (folder, seed), group in orphans.items()]
    if not experiments:
        raise ReportingError(
            f"found neither {LEDGER_FILE} nor task_*_seed*/{METRICS_FILE} below "
            f"{', '.join(map(str, folders))}: run an experiment first, or give its log folder"
        )
    return sorted(experiments, key=lambda one: (one.method, one.suite, one.seed, str(one.folder)))


def _find(folders: Sequence[Path], name: str) -> list[Path]:
    found = {path.resolve(): path for folder in folders for path in sorted(folder.rglob(name))}
    return list(found.values())  # overlapping folders count once


def _training_runs(folders: Sequence[Path]) -> list[TrainingRun]:
    # run.json alone counts too: a run that has not finished its first epoch.
    paths = _find(folders, METRICS_FILE) + _find(folders, RUN_FILE)
    runs = []
    for folder in dict.fromkeys(path.parent for path in paths):
        if found := tasks_and_seed(folder):
            tasks, seed = found
            metrics = read_metrics(folder / METRICS_FILE) if (folder / METRICS_FILE).exists() else {}
            runs.append(TrainingRun(folder=folder, tasks=tasks, seed=seed, metrics=metrics, info=run_info.read(folder)))
    return runs


def _is_training(name: str) -> bool:
    return name.startswith(("rollout/", "train/"))


def _experiments_of(path: Path, runs: Sequence[TrainingRun]) -> list[Experiment]:
    groups: dict[tuple[str, str, int, float, str], list[EvaluationRecord]] = {}
    everything = ledger.read(path)
    learnt = {_place(record) for record in everything if not record.is_further}
    for record in everything:
        if record.is_further and _place(record) in learnt:  # it stands beside what was learnt
            continue
        key = (record.method, record.suite, record.seed, record.temperature, record.assets)
        groups.setdefault(key, []).append(replace(record, learnt_suite=""))
    experiments = []
    for (method, suite, seed, _, _), group in groups.items():
        records = tuple(ledger.rows(group))
        beside = [one for one in everything if one.is_further and _place(one) == _place(group[0])]
        matrix, problem = _matrix(records)
        order = [row for record in records for row in ledger.row_tasks(record.row)]
        training = sorted((run for run in runs if run.seed == seed), key=lambda run: _position(run, order))
        experiments.append(
            Experiment(
                folder=path.parent,
                method=method,
                suite=suite,
                seed=seed,
                records=records,
                matrix=matrix,
                matrix_problem=problem,
                training=tuple(training),
                info=run_info.read(path.parent) or next((run.info for run in training if run.info), None),
                videos=_videos(path.parent, records),
                probes=tuple(record for record in group if record.probe),
                further=_further(records, beside),
                diagnoses=_diagnoses(path.with_name(DIAGNOSTICS_FILE), records),
            )
        )
    return experiments


def _place(record: EvaluationRecord) -> tuple[str, str, int, float]:
    """Records of one experiment share it, whatever suite they were evaluated on."""
    return record.method, record.learnt_suite or record.suite, record.seed, record.temperature


def _further(
    rows: Sequence[EvaluationRecord], beside: Sequence[EvaluationRecord]
) -> dict[str, tuple[EvaluationRecord, ...]]:
    """By suite, the evaluations that belong to these rows: of the same tasks learnt and the same epoch."""
    known = {(row.learnt_tasks, step_of(row.checkpoint)) for row in rows}
    found = {}
    for suite in dict.fromkeys(record.suite for record in beside):
        same = [one for one in beside if one.suite == suite and (one.learnt_tasks, step_of(one.checkpoint)) in known]
        if chosen := tuple(ledger.rows(same)):
            found[suite] = chosen
    return found


def _diagnoses(path: Path, rows: Sequence[EvaluationRecord]) -> tuple[Diagnosis, ...]:
    """What is known of the checkpoints of these rows."""
    of = {(row.method, row.suite, row.seed, row.learnt_tasks, step_of(row.checkpoint)) for row in rows}
    known = [
        one
        for one in diagnoses.read(path)
        if (one.method, one.suite, one.seed, one.learnt_tasks, step_of(one.checkpoint)) in of
    ]
    return tuple(diagnoses.by_checkpoint(known))


def _matrix(records: Sequence[EvaluationRecord]) -> tuple[SuccessMatrix | None, str]:
    try:
        return ledger.success_matrix(records), ""
    except ReportingError as error:
        return None, str(error)


def _position(run: TrainingRun, order: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Evaluated stages in the order of learning, then what is not evaluated yet by task id."""
    last = run.tasks[-1] if run.tasks else -1
    return (order.index(last) if last in order else len(order), run.tasks)


def _without_ledger(folder: Path, seed: int, runs: Sequence[TrainingRun]) -> Experiment:
    training = tuple(sorted(runs, key=lambda run: run.tasks))
    info = next((run.info for run in training if run.info), None)
    return Experiment(
        folder=folder,
        method=info.method if info and info.method else folder.name,
        suite=info.suite if info else "",
        seed=seed,
        training=training,
        info=info,
        videos=tuple(Video(path=path, row="") for path in sorted(folder.rglob("videos/[!.]*.webp"))),
    )


def _videos(folder: Path, records: Sequence[EvaluationRecord]) -> tuple[Video, ...]:
    found: dict[Path, str] = {}
    for record in records:
        for path in (folder / name for name in record.videos):
            if path.is_file():
                found.setdefault(path, record.row)
    return tuple(Video(path=path, row=row) for path, row in found.items())
