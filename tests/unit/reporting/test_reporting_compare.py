"""Several methods side by side: the page, LaTeX, CSV, LoRA scales and settings on a study of generated logs."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlinf.cli import report as cli
from rlinf.config.differences import differences, flat
from rlinf.config.schema import Config
from rlinf.reporting import ReportingError, metrics
from rlinf.reporting.report import collect, csv_table, latex, plots, write_report
from rlinf.reporting.report.columns import COLUMNS, COMPARED, Column, libero_curves
from rlinf.reporting.report.compare import Comparison, MethodRuns, comparisons, results_settings, scale_curves
from rlinf.reporting.report.names import task_ranges
from rlinf.reporting.report.plots import Axis, Curve, Plot
from rlinf.run_layout import LEDGER_FILE
from tests.study import BASE, METHODS, SETTINGS, write_record, write_scales, write_sets, write_study

AFTER_ALL = ("sequential", "ewc", "er", "der", "weight_merge", "slca", "multitask")
ODD = "50%_{a}&b<c>|~^#$\\"  # letters that mean something to TeX


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six methods and joint training, three seeds each."""
    return write_study(tmp_path_factory.mktemp("study"), methods=(*METHODS, "multitask"))


def column(key: str) -> Column:
    return next(one for one in COLUMNS if one.key == key)


def only_comparison(folder: Path) -> Comparison:
    (group,) = comparisons(collect([folder]))
    return group


def page(folder: Path) -> str:
    return write_report(collect([folder]), folder / "report.html").read_text(encoding="utf-8")


def csv_rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(csv_table(collect([folder])).splitlines()))


def write_order(folder: Path, method: str, order: Sequence[int], seed: int = 1) -> None:
    """Evaluations of a base model and after each task of an order."""
    for length in range(len(order) + 1):
        write_record(folder, method, seed, tuple(order[:length]), BASE)


# --------------------------------------------------------------------------------------------------- what is compared


def test_seeds_of_a_method_are_one_row_and_joint_training_comes_last(study: Path) -> None:
    group = only_comparison(study)
    assert tuple(one.first.method for one in group.methods) == AFTER_ALL
    assert [one.seeds for one in group.methods] == [(1, 2, 3)] * 7
    assert [one.is_joint for one in group.methods] == [False] * 6 + [True]
    assert group.title == "LIBERO-Spatial, tasks 0–4 (sampled at temperature 1.6, altered 1ef524f5e7df assets)"


def test_a_cell_is_the_mean_over_seeds_with_students_interval(study: Path) -> None:
    one = next(one for one in only_comparison(study).methods if one.first.method == "er")
    cell, alone = one.cell(column("avg")), MethodRuns.of(one.first).cell(column("avg"))
    values = [float(matrix.success_RK[-1, :5].mean()) for matrix in one.matrices]
    half, own = 4.303 * float(np.std(values, ddof=1)) / 3**0.5, metrics.average_success(one.matrices[0])
    assert cell is not None
    assert (cell.value, cell.low, cell.high) == pytest.approx(tuple(np.mean(values) + half * k for k in (0, -1, 1)))
    assert alone is not None
    assert own is not None
    assert (alone.value, alone.low, alone.high, alone.seeds) == (own.value, own.low, own.high, 1)
    assert one.pooled.episodes_RK.min() == 150
    assert one.pooled.success_RK == pytest.approx(np.mean([matrix.success_RK for matrix in one.matrices], axis=0))


def test_the_best_is_the_best_of_continual_methods(study: Path) -> None:
    group = only_comparison(study)
    averages = {one.first.method: one.cell(column("avg")) for one in group.methods}
    joint, best = averages.pop("multitask"), group.best(column("avg"))
    assert joint is not None
    assert best == max(cell.value for cell in averages.values() if cell) < joint.value
    assert group.best(column("nbt")) == min(cell.value for one in group.methods if (cell := one.cell(column("nbt"))))
    assert group.best(column("base")) is None, "nothing to win there"


def test_what_is_not_comparable_is_apart(tmp_path: Path) -> None:
    write_study(tmp_path / "a", methods=("ewc",), seeds=(1,), num_tasks=2)
    write_study(tmp_path / "b", methods=("er", "slca"), seeds=(1,), num_tasks=3)
    write_sets(tmp_path / "c", ((0, 2, 4), (1, 3)))
    groups = comparisons(collect([tmp_path]))
    titles = {group.title.split(" (")[0]: len(group.methods) for group in groups}
    assert titles == {f"LIBERO-Spatial, tasks {tasks}": 1 for tasks in ("0, 1", "0, 2, 4", "1, 3")} | {
        "LIBERO-Spatial, tasks 0–2": 2
    }
    assert all(f"<h2>{title} (" in page(tmp_path) for title in titles)


def test_methods_are_told_apart_by_ppo_and_by_the_order_of_tasks(tmp_path: Path) -> None:
    for place, method, order in ((0, "sequential", (0, 1)), (1, "sequential_ppo", (0, 1)), (2, "sequential", (1, 0)),
                                 (3, "ewc", (0, 1))):  # fmt: skip
        write_order(tmp_path / str(place), method, order)
    assert [one.name for one in only_comparison(tmp_path).methods] == [
        "Sequential fine-tuning (order 0, 1)",
        "Sequential fine-tuning (order 1, 0)",
        "Sequential fine-tuning, PPO",
        "Elastic weight consolidation",
    ]


def test_one_method_with_two_settings_is_two_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for coefficient in (0.03, 0.3):
        replay = {"method": {"name": "er", "replay": {"coeff": coefficient, "tasks": "one"}}}
        monkeypatch.setitem(SETTINGS, "er", replay)
        write_study(tmp_path / str(coefficient), methods=("er",), seeds=(1, 2), num_tasks=2)
    group = only_comparison(tmp_path)
    assert {one.name: one.seeds for one in group.methods} == {
        "Experience replay (coeff 0.03)": (1, 2),
        "Experience replay (coeff 0.3)": (1, 2),
    }
    differing = page(tmp_path).split('<table class="plain wide diff">')[1].split("</table>")[0]
    assert re.findall(r'<th scope="row"><code>([^<]*)', differing) == ["method.replay.coeff"]


def test_seeds_that_the_launcher_takes_for_one_experiment_are_one_row(tmp_path: Path) -> None:
    def nested(key: str, value: str) -> dict[str, Any]:
        return reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value)  # type: ignore[return-value]

    (experiment, *_) = collect([write_study(tmp_path, methods=("ewc",), seeds=(1, 2), num_tasks=2)])
    assert experiment.info is not None
    for key in flat(asdict(Config())):
        is_free = differences(nested(key, "a"), nested(key, "b"), beside=True) == {}
        info = replace(experiment.info, config={key: "a"})
        is_ignored = results_settings(replace(experiment, info=info)) == {}
        assert is_ignored == (is_free or key in ("method.name", "method.label")), key
    for seed in (1, 2):
        for path in tmp_path.rglob(f"*_seed{seed}/config.yaml"):
            path.write_text(path.read_text() + f"rollout: {{max_batch: {seed}}}\n")
    assert [one.seeds for one in only_comparison(tmp_path).methods] == [(1, 2)]


def test_seeds_in_different_folders_are_one_row_and_a_repeated_seed_is_two(tmp_path: Path) -> None:
    write_study(tmp_path / "one", methods=("ewc",), seeds=(1, 2), num_tasks=2)
    write_study(tmp_path / "two", methods=("ewc",), seeds=(3,), num_tasks=2)
    assert [one.seeds for one in only_comparison(tmp_path).methods] == [(1, 2, 3)]
    write_study(tmp_path / "two", methods=("ewc",), seeds=(1,), num_tasks=2)
    assert {one.name: one.seeds for one in only_comparison(tmp_path).methods} == {
        f"Elastic weight consolidation ({tmp_path / name / 'ewc'})": seeds
        for name, seeds in (("one", (1, 2)), ("two", (1, 3)))
    }


def test_random_actions_are_a_reference(tmp_path: Path) -> None:
    write_study(tmp_path, methods=("er", "ewc"), seeds=(1, 2), num_tasks=2)
    write_record(tmp_path / "random_action", "random_action", 1, (), [0.1, 0.1, *[0.02] * 8])
    group = only_comparison(tmp_path)
    assert [one.first.method for one in group.methods] == ["ewc", "er"]
    (random,) = group.references
    cells = [group.reference_cell(random, column(key)) for key in ("avg", "zero_shot", "nbt")]
    assert [cell and cell.value for cell in cells] == [pytest.approx(0.1), pytest.approx(0.02), None]
    assert latex(collect([tmp_path])).splitlines()[-4].startswith("    Random actions & 1 & -- & 10.0 {")
    assert [row["row"] for row in csv_rows(tmp_path) if row["method"] == "random_action"] == ["reference"]
    html = page(tmp_path)
    assert re.search(r"Random actions<br><small>1 seed: ", html)
    assert "In no table" not in html
    path = tmp_path / "random_action" / LEDGER_FILE
    path.write_text(path.read_text().replace("altered 1ef524f5e7df", "official"))
    assert only_comparison(tmp_path).references == ()
    assert "Random actions on LIBERO-Spatial, seed 1: evaluated on another suite or other assets" in page(tmp_path)


def test_only_starts_are_compared_when_nothing_was_learnt(tmp_path: Path) -> None:
    for method in ("random_action", "sequential"):
        write_record(tmp_path / method, method, 1, (), BASE)
    group = only_comparison(tmp_path)
    assert [one.first.method for one in group.methods] == ["sequential", "random_action"]
    assert "base model" in group.title
    page(tmp_path)


# ---------------------------------------------------------------------------------------------------- page and exports


def test_the_page_shows_everything_side_by_side(study: Path) -> None:
    html = page(study)
    for title in ("Methods side by side", "Success matrices", "Success on the tasks learnt so far", "Learning curves",
                  "Task by task, at the end", "Settings that differ", "Each run"):  # fmt: skip
        assert f"<h2>{title}</h2>" in html
    comparison, runs = html.split("<h2>Each run</h2>")
    assert "LoRA scale" not in comparison, "no probe, no curve"
    table = comparison.split('<table class="plain wide names compare">')[1].split("</table>")[0]
    assert table.count("<tr") == 8
    for key in (one for one in COLUMNS if one.key in COMPARED and one.better):
        assert key.name in table
    assert table.count('class="num best"') >= 5
    assert "best" not in table.split('<tr class="joint">')[1]
    assert comparison.count('<table class="heat">') == 7
    assert comparison.count('class="slot"') == 10 * 7
    assert runs.count('<details class="run"') == 21
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)


def test_latex_is_a_booktabs_table(study: Path) -> None:
    text = latex(collect([study]))
    assert text.startswith("% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n")
    rows = re.findall(r"^    (.* & .*) \\\\$", text, flags=re.MULTILINE)
    assert {row.count(" & ") for row in rows} == {7}
    assert text.count(r"\begin{tabular}{lrrrrrrr}") == text.count(r"\end{tabular}") == 1
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    _, *learning, joint = rows
    assert len(learning) == 6
    for place in (3, 4, 5, 6, 7):
        assert any(r"\textbf{" in row.split(" & ")[place] for row in learning)
    assert r"\textbf" not in joint, "joint training is not a competitor"
    er = next(row for row in rows if row.startswith("Experience replay"))
    assert re.search(r"& 3 & \d\d\.\d \{\\scriptsize \$\\pm\$ \d+\.\d\} &", er)
    assert text.isascii()
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("compiled", [False, True])
def test_names_are_escaped_for_latex(study: Path, tmp_path: Path, compiled: bool) -> None:
    write_order(tmp_path / "odd", ODD, (0, 1))
    for folder in ("run_a", "run_b"):
        write_order(tmp_path / folder, "ewc", (0, 1))
    text = latex(collect([tmp_path]))
    assert r"50\% \{a\}\&b\textless{}c\textgreater{}\textbar{}\textasciitilde{}\textasciicircum{}\#\$" in text
    assert r"run\_a)" in text
    assert "[" in text.split(r"\midrule")[1], "one seed: the interval of its episodes"
    if not compiled:
        return
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    packages, body = r"\usepackage{booktabs}\usepackage{graphicx}", latex(collect([study])) + text
    (tmp_path / "paper.tex").write_text(rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall(r"^(?:Overfull|!|LaTeX Warning: (?!Label)).*", done.stdout, flags=re.MULTILINE)


def test_a_seed_that_is_in_no_table_is_said_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = write_study(tmp_path / "logs", methods=("er",), seeds=(1, 2), num_tasks=2)
    for learnt in ((), (0, 1)):  # task 0 alone was never evaluated
        write_record(logs / "er", "er", 3, learnt, BASE)
    files = [tmp_path / name for name in ("table.tex", "table.csv", "report.html")]
    assert cli.main([str(logs), "--latex", str(files[0]), "--csv", str(files[1]), "--out", str(files[2])]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-3:] == [str(path) for path in files]
    for text in (told, files[0].read_text(), files[2].read_text()):
        assert re.search(
            r"In no table(.|\n)*Experience replay on LIBERO-Spatial, seed 3.*an evaluation is missing", text
        )
    (row,) = [row for row in csv.DictReader(files[1].read_text().splitlines()) if row["row"] == "left out"]
    assert (row["method"], row["seeds"], row["avg"]) == ("er", "3", "")
    assert "an evaluation is missing" in row["note"]


def test_runs_without_a_matrix_are_listed_with_the_reason_and_make_no_table(tmp_path: Path) -> None:
    write_study(tmp_path, methods=("er", "ewc"), seeds=(1,), num_tasks=1)
    for path in tmp_path.rglob(LEDGER_FILE):
        path.unlink()
    html = page(tmp_path)
    assert html.count("seed 1: nothing has been evaluated yet</li>") == html.count('<details class="run"') == 2
    for export in (csv_table, latex):
        with pytest.raises(ReportingError, match=r"no success matrix to make a table of .*nothing has been evaluated"):
            export(collect([tmp_path]))


# ------------------------------------------------------------------------------------------------------------- details


def test_scale_curves_come_from_probes(tmp_path: Path) -> None:
    write_study(tmp_path, methods=("sequential",), seeds=(1, 2), num_tasks=2)
    write_scales(tmp_path, "sequential", (1,), (0.0, 0.5))
    (one,) = only_comparison(tmp_path).methods
    assert not any(record.probe for record in one.first.records)
    (curve,) = scale_curves(one)
    final = one.first.records[-1].success
    assert list(curve.learnt) == [0.0, 0.5, 1.0]
    assert curve.learnt[0.0] == [pytest.approx((0.44 + 0.52) / 2)]
    assert curve.learnt[1.0] == [pytest.approx((final[0] + final[1]) / 2)]
    assert curve.held_out[1.0] == [pytest.approx(np.mean([final[task] for task in range(2, 10)]))]
    html = page(tmp_path)
    assert "Success over the LoRA scale" in html.split("<h2>Each run</h2>")[0]
    assert "task_1, LoRA scale 0.5" in html


def test_probes_alone_still_make_a_page(tmp_path: Path) -> None:
    write_record(tmp_path, "sequential", 1, (0,), BASE, scale=0.5)
    html = page(tmp_path)
    assert "the only evaluations are of other LoRA scales" in html
    assert "Success over the LoRA scale" in html


def test_liberos_metrics_need_evaluations_while_learning(study: Path, tmp_path: Path) -> None:
    experiment = next(one for one in collect([study]) if one.method == "ewc")
    found, matrix = libero_curves(experiment), experiment.matrix
    assert found is not None
    assert matrix is not None
    assert {task: len(curve) for task, curve in found.items()} == dict.fromkeys(range(5), 3)  # before, epoch 3, after
    assert (found[3][0], found[3][-1]) == (matrix.success(3, 3), matrix.success(4, 3))
    write_order(tmp_path, "ewc", (0,))
    (bare,) = collect([tmp_path])
    assert libero_curves(bare) is None
    assert column("auc").measure(bare) is None


def test_curves_keep_inside_their_frame() -> None:
    piece = (plots.spread(0, (0.2, 0.4), "a<b"), plots.spread(1, (0.5, 0.5), "a<b"))
    curve = Curve("a<b", 9, [piece])
    drawn = Plot([curve], Axis(0, 1, [(0, "0")], "scale"), plots.rate_ticks((0.2, 0.5)))
    assert [point.title for point in curve.points] == ["a<b: 30% (20% to 40%)", "a<b: 50% (50% to 50%)"]
    assert drawn.line(piece) == "M0.00 40.00L100.00 0.00", "the axis runs from 0 to 50%"
    assert drawn.y(0.6) == "0.00"
    assert "stroke-dasharray" in curve.style, "a ninth colour is the first one, dashed"
    assert plots.rate_ticks((1.0, 1.0))[0] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("tasks", "text"), [((0, 1), "0, 1"), ((0, 1, 2, 5), "0–2, 5"), ((4, 3, 2), "4, 3, 2"), ((0, 2, 4), "0, 2, 4")]
)
def test_task_ranges(tasks: tuple[int, ...], text: str) -> None:
    assert task_ranges(tasks) == text
