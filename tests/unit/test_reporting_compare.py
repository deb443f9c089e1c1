"""Several methods side by side: the page, LaTeX, CSV, LoRA scales and settings on a study of generated logs."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlinf.cli import report as cli
from rlinf.config.differences import differences, flat
from rlinf.config.schema import Config
from rlinf.reporting import ledger, metrics
from rlinf.reporting.report import ReportError, collect, csv_table, latex, plots, write_report
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.columns import COLUMNS, Column, libero_curves
from rlinf.reporting.report.compare import Comparison, MethodRuns, comparisons, results_settings, scale_curves
from rlinf.reporting.report.names import task_ranges
from rlinf.reporting.report.plots import Axis, Curve
from tests.study import BASE, METHODS, SETTINGS, write_record, write_scales, write_sets, write_study

AFTER_ALL = ("sequential", "ewc", "er", "der", "weight_merge", "slca", "multitask")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six methods and joint training, three seeds each."""
    return write_study(tmp_path_factory.mktemp("study"), methods=(*METHODS, "multitask"))


def column(key: str) -> Column:
    return next(one for one in COLUMNS if one.key == key)


def only_comparison(folder: Path) -> Comparison:
    (group,) = comparisons(collect([folder]))
    return group


def test_seeds_of_a_method_are_one_row_and_joint_training_comes_last(study: Path) -> None:
    group = only_comparison(study)
    assert tuple(one.first.method for one in group.methods) == AFTER_ALL
    assert [one.seeds for one in group.methods] == [(1, 2, 3)] * 7
    assert [one.is_joint for one in group.methods] == [False] * 6 + [True]
    assert group.title == "LIBERO-Spatial, tasks 0–4 (sampled at temperature 1.6, altered 1ef524f5e7df assets)"


def test_a_cell_is_the_mean_over_seeds_with_students_interval(study: Path) -> None:
    one = next(one for one in only_comparison(study).methods if one.first.method == "er")
    cell = one.cell(column("avg"))
    values = [float(matrix.success_RK[-1, :5].mean()) for matrix in one.matrices]
    half = 4.303 * float(np.std(values, ddof=1)) / 3**0.5
    assert cell is not None
    assert (cell.value, cell.low, cell.high) == pytest.approx(
        (np.mean(values), np.mean(values) - half, np.mean(values) + half)
    )
    alone = MethodRuns.of(one.experiments[0]).cell(column("avg"))
    own = metrics.average_success(one.matrices[0])
    assert alone is not None
    assert own is not None
    assert (alone.value, alone.low, alone.high, alone.seeds) == (own.value, own.low, own.high, 1)


def test_pooled_matrix_counts_all_episodes(study: Path) -> None:
    one = only_comparison(study).methods[0]
    assert one.pooled.episodes_RK.min() == 150
    mean = np.mean([matrix.success_RK for matrix in one.matrices], axis=0)
    assert one.pooled.success_RK == pytest.approx(mean)


def test_the_best_is_the_best_of_continual_methods(study: Path) -> None:
    group = only_comparison(study)
    averages = {one.first.method: one.cell(column("avg")) for one in group.methods}
    joint = averages.pop("multitask")
    best = group.best(column("avg"))
    assert joint is not None
    assert best == max(cell.value for cell in averages.values() if cell)
    assert best < joint.value
    lowest = min(cell.value for one in group.methods if (cell := one.cell(column("nbt"))))
    assert group.best(column("nbt")) == lowest
    assert group.best(column("base")) is None, "nothing to win there"


def test_the_page_shows_everything_side_by_side(study: Path, tmp_path: Path) -> None:
    html = write_report(collect([study]), tmp_path / "report.html").read_text(encoding="utf-8")
    for title in ("Methods side by side", "Success matrices", "Success on the tasks learnt so far", "Learning curves",
                  "Task by task, at the end", "Settings that differ", "Each run"):  # fmt: skip
        assert f"<h2>{title}</h2>" in html
    comparison, runs = html.split("<h2>Each run</h2>")
    assert "LoRA scale" not in comparison, "no probe, no curve"
    table = comparison.split('<table class="plain wide names compare">')[1].split("</table>")[0]
    assert table.count("<tr") == 8
    assert '<tr class="joint"><th scope="row">' in table
    for key in (one for one in COLUMNS if one.in_comparison and one.better):
        assert key.name in table
    assert table.count('class="num best"') >= 5
    assert "best" not in table.split('class="joint"')[1]
    assert comparison.count('<table class="heat">') == 7
    assert comparison.count('class="slot"') == 10 * 7
    assert runs.count('<details class="run"') == 21
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)


def test_latex_is_a_booktabs_table(study: Path) -> None:
    text = latex(collect([study]))
    rows = re.findall(r"^    (.* & .*) \\\\$", text, flags=re.MULTILINE)
    assert len(rows) == 8
    assert {row.count(" & ") for row in rows} == {7}
    assert text.count(r"\begin{tabular}{lrrrrrrr}") == text.count(r"\end{tabular}") == 1
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    for place in (3, 4, 5, 6, 7):
        assert any(r"\textbf{" in row.split(" & ")[place] for row in rows[1:-1])
    assert r"\textbf" not in rows[-1], "joint training is not a competitor"
    er = next(row for row in rows if row.startswith("Experience replay"))
    assert re.search(r"& 3 & \d\d\.\d \{\\scriptsize \$\\pm\$ \d+\.\d\} &", er)
    assert text.isascii()
    assert text.count("{") == text.count("}")


def test_names_are_escaped_for_latex(tmp_path: Path) -> None:
    write_record(tmp_path, "50%_{a}&b", 1, (), BASE)
    write_record(tmp_path, "50%_{a}&b", 1, (0,), BASE)
    text = latex(collect([tmp_path]))
    assert r"50\% \{a\}\&b" in text
    assert "[" in text.split(r"\midrule")[1], "one seed: the interval of its episodes"


def _write_awkward(logs: Path) -> Path:
    """A method with letters that mean something to TeX, and one whose runs only their folders tell apart."""
    for learnt in ((), (0,), (0, 1)):
        write_record(logs / "odd", "50%_{a}&b<c>|~^#$\\", 1, learnt, BASE)
        for folder in ("run_a", "run_b"):
            write_record(logs / folder, "ewc", 1, learnt, BASE)
    return logs


def test_folders_are_escaped_for_latex(tmp_path: Path) -> None:
    text = latex(collect([_write_awkward(tmp_path)]))
    assert r"run\_a)" in text
    assert r"50\% \{a\}\&b\textless{}c\textgreater{}\textbar{}\textasciitilde{}\textasciicircum{}\#\$" in text
    assert text.startswith("% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_without_a_complaint(study: Path, tmp_path: Path) -> None:
    text = latex(collect([study])) + latex(collect([_write_awkward(tmp_path / "logs")]))
    packages = r"\usepackage{booktabs}\usepackage{graphicx}"
    (tmp_path / "paper.tex").write_text(rf"\documentclass{{article}}{packages}\begin{{document}}{text}\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    complaints = [line for line in done.stdout.splitlines() if re.match(r"Overfull|!|LaTeX Warning: (?!Label)", line)]
    assert not complaints


def test_csv_holds_means_and_seeds(study: Path) -> None:
    rows = list(csv.DictReader(csv_table(collect([study])).splitlines()))
    assert len(rows) == 7 * 4
    mean = next(row for row in rows if row["method"] == "slca" and row["row"] == "mean")
    seeds = [row for row in rows if row["method"] == "slca" and row["row"] == "seed"]
    assert [row["seeds"] for row in seeds] == ["1", "2", "3"]
    assert (mean["seeds"], mean["learnt_tasks"], mean["episodes"]) == ("1 2 3", "0 1 2 3 4", str(3 * 6 * 10 * 50))
    for key in ("avg", "nbt", "nbt_libero", "forgetting", "auc"):
        assert float(mean[key]) == pytest.approx(np.mean([float(row[key]) for row in seeds]), abs=1e-5)
        assert float(mean[f"{key}_low"]) < float(mean[key]) < float(mean[f"{key}_high"])
    joint = next(row for row in rows if row["method"] == "multitask")
    assert joint["nbt"] == joint["fwt"] == joint["auc"] == ""


def test_command_line_writes_all_three(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [tmp_path / name for name in ("table.tex", "table.csv", "report.html")]
    assert cli.main([str(study), "--latex", str(names[0]), "--csv", str(names[1]), "--out", str(names[2])]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [str(name) for name in names]
    assert all(name.stat().st_size > 1000 for name in names)
    with pytest.raises(ReportError, match="--csv takes the name of a file"):
        cli.main([str(study), "--csv", str(tmp_path)])


def test_no_matrix_no_table(tmp_path: Path) -> None:
    write_record(tmp_path, "er", 1, (), BASE)
    write_record(tmp_path, "er", 1, (0, 1), BASE)  # task 0 alone was never evaluated
    with pytest.raises(ReportError, match=r"no success matrix to make a table of .*an evaluation is missing"):
        latex(collect([tmp_path]))


def test_a_seed_that_is_in_no_table_is_said_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "logs", methods=("er",), seeds=(1, 2), num_tasks=2)
    write_record(tmp_path / "logs" / "er", "er", 3, (), BASE)
    write_record(tmp_path / "logs" / "er", "er", 3, (0, 1), BASE)  # task 0 alone was never evaluated
    files = [tmp_path / name for name in ("table.tex", "table.csv", "report.html")]
    words = [str(tmp_path / "logs"), "--latex", str(files[0]), "--csv", str(files[1]), "--out", str(files[2])]
    assert cli.main(words) == 0
    for text in (capsys.readouterr().out, files[0].read_text(), files[2].read_text()):
        assert re.search(r"In no table.*Experience replay on LIBERO-Spatial, seed 3.*an evaluation is missing", text)
    (row,) = [row for row in csv.DictReader(files[1].read_text().splitlines()) if row["row"] == "left out"]
    assert (row["method"], row["seeds"], row["avg"]) == ("er", "3", "")
    assert "an evaluation is missing" in row["note"]


def test_what_is_not_comparable_is_apart(tmp_path: Path) -> None:
    write_study(tmp_path / "a", methods=("ewc",), seeds=(1,), num_tasks=2)
    write_study(tmp_path / "b", methods=("er", "slca"), seeds=(1,), num_tasks=3)
    assert [len(group.methods) for group in comparisons(collect([tmp_path]))] == [2, 1]
    page = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "LIBERO-Spatial, tasks 0–2" in page
    assert "LIBERO-Spatial, tasks 0, 1 (" in page


def test_two_sets_learnt_together_with_one_seed_are_two_tables(tmp_path: Path) -> None:
    groups = comparisons(collect([write_sets(tmp_path, ((0, 2, 4), (1, 3)))]))
    assert sorted(group.title.split(" (")[0] for group in groups) == [
        "LIBERO-Spatial, tasks 0, 2, 4",
        "LIBERO-Spatial, tasks 1, 3",
    ]
    assert [one.is_joint for group in groups for one in group.methods] == [True, True]


def test_ppo_stands_beside_grpo(tmp_path: Path) -> None:
    write_study(tmp_path, methods=("sequential", "ewc"), seeds=(1,), num_tasks=2)
    for learnt in ((), (0,), (0, 1)):
        write_record(tmp_path / "sequential_ppo", "sequential_ppo", 1, learnt, BASE)
    assert [one.name for one in only_comparison(tmp_path).methods] == [
        "Sequential fine-tuning",
        "Sequential fine-tuning, PPO",
        "Elastic weight consolidation",
    ]


def test_one_method_with_two_settings_is_two_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path / "low", methods=("er",), seeds=(1, 2), num_tasks=2)
    replay = {"method": {"name": "er", "replay": {"coeff": 0.3, "tasks": "one"}}}
    monkeypatch.setitem(SETTINGS, "er", replay)
    write_study(tmp_path / "high", methods=("er",), seeds=(1, 2), num_tasks=2)
    group = only_comparison(tmp_path)
    assert sorted(one.name for one in group.methods) == [
        "Experience replay (coeff 0.03)",
        "Experience replay (coeff 0.3)",
    ]
    assert [one.seeds for one in group.methods] == [(1, 2), (1, 2)]
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    diff = html.split('<table class="plain wide diff">')[1].split("</table>")[0]
    assert re.findall(r'<th scope="row"><code>([^<]*)', diff) == ["method.replay.coeff"]
    assert "log_path" not in diff, "what every run has of its own is no difference"


def test_seeds_that_the_launcher_takes_for_one_experiment_are_one_row(tmp_path: Path) -> None:
    def nested(key: str, value: str) -> dict[str, Any]:
        return reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value)  # type: ignore[return-value]

    (experiment, *_) = collect([write_study(tmp_path, methods=("ewc",), seeds=(1, 2), num_tasks=2)])
    assert experiment.info is not None
    for key in flat(asdict(Config())):
        is_free = differences(nested(key, "a"), nested(key, "b"), beside=True) == []
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
    methods = only_comparison(tmp_path).methods
    assert sorted(one.seeds for one in methods) == [(1, 2), (1, 3)]
    assert {one.name for one in methods} == {
        f"Elastic weight consolidation ({tmp_path / name / 'ewc'})" for name in ("one", "two")
    }


def test_task_orders_are_named(tmp_path: Path) -> None:
    for number, order in enumerate([(0, 1), (1, 0)]):
        folder = tmp_path / f"order_{number}"
        write_record(folder, "sequential", 1, (), BASE)
        for length in (1, 2):
            write_record(folder, "sequential", 1, order[:length], BASE)
    names = sorted(one.name for one in only_comparison(tmp_path).methods)
    assert names == ["Sequential fine-tuning (order 0, 1)", "Sequential fine-tuning (order 1, 0)"]


def test_scale_curves_come_from_probes(tmp_path: Path) -> None:
    write_study(tmp_path, methods=("sequential",), seeds=(1, 2), num_tasks=2)
    write_scales(tmp_path, "sequential", (1,), (0.0, 0.5))
    (one,) = only_comparison(tmp_path).methods
    assert not any(record.probe for record in one.first.records)
    (curve,) = scale_curves(one)
    final = ledger.rows([one for one in ledger.read(tmp_path / "sequential/evaluations.jsonl") if one.seed == 1])[-1]
    assert list(curve.learnt) == [0.0, 0.5, 1.0]
    assert curve.learnt[0.0] == [pytest.approx((0.44 + 0.52) / 2)]
    assert curve.learnt[1.0] == [pytest.approx((final.success[0] + final.success[1]) / 2)]
    assert curve.held_out[1.0] == [pytest.approx(np.mean([final.success[task] for task in range(2, 10)]))]
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "Success over the LoRA scale" in html.split("<h2>Each run</h2>")[0]
    assert "task_1, LoRA scale 0.5" in html


def test_probes_alone_still_make_a_page(tmp_path: Path) -> None:
    write_record(tmp_path, "sequential", 1, (0,), BASE, scale=0.5)
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "the only evaluations are of other LoRA scales" in html
    assert "Success over the LoRA scale" in html


def test_liberos_metrics_need_evaluations_while_learning(study: Path, tmp_path: Path) -> None:
    experiment = next(one for one in collect([study]) if one.method == "ewc")
    found = libero_curves(experiment)
    assert found is not None
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert {len(curve) for curve in found.values()} == {3}  # before, epoch 3, after
    assert experiment.matrix is not None
    assert found[3][0] == experiment.matrix.success(3, 3)
    assert found[3][-1] == experiment.matrix.success(4, 3)
    write_record(tmp_path, "ewc", 1, (), BASE)
    write_record(tmp_path, "ewc", 1, (0,), BASE)
    bare: list[Experiment] = collect([tmp_path])
    assert libero_curves(bare[0]) is None
    assert column("auc").measure(bare[0]) is None


def test_curves_keep_inside_their_frame() -> None:
    piece = (plots.spread(0, (0.2, 0.4), "a<b"), plots.spread(1, (0.5, 0.5), "a<b"))
    drawn = plots.plot([Curve("a<b", 9, [piece])], Axis(0, 1, [(0, "0")], "scale"), plots.rate_ticks((0.2, 0.5)))
    (curve,) = drawn.curves
    assert [title for *_, title in curve.titles] == ["a<b: 30% (20% to 40%)", "a<b: 50% (50% to 50%)"]
    assert curve.lines == ["M0.00 40.00L100.00 0.00"], "the axis runs from 0 to 50%"
    assert "stroke-dasharray" in curve.style, "a ninth colour is the first one, dashed"
    assert plots.rate_ticks((1.0, 1.0))[0] == 0.75


@pytest.mark.parametrize(
    ("tasks", "text"), [((0, 1), "0, 1"), ((0, 1, 2, 5), "0–2, 5"), ((4, 3, 2), "4, 3, 2"), ((0, 2, 4), "0, 2, 4")]
)
def test_task_ranges(tasks: tuple[int, ...], text: str) -> None:
    assert task_ranges(tasks) == text


def test_random_actions_are_a_reference(tmp_path: Path) -> None:
    write_study(tmp_path, methods=("er", "ewc"), seeds=(1, 2), num_tasks=2)
    rates = np.full(10, 0.02)
    rates[:2] = 0.1
    write_record(tmp_path / "random_action", "random_action", 1, (), rates)
    group = only_comparison(tmp_path)
    assert [one.first.method for one in group.methods] == ["ewc", "er"]
    (random,) = group.references
    learnt, held_out = (group.reference_cell(random, column(key)) for key in ("avg", "zero_shot"))
    assert learnt is not None
    assert held_out is not None
    assert (learnt.value, held_out.value) == pytest.approx((0.1, 0.02))
    assert group.reference_cell(random, column("nbt")) is None
    assert latex(collect([tmp_path])).splitlines()[-4].startswith("    Random actions & 1 & -- & 10.0 {")
    rows = list(csv.DictReader(csv_table(collect([tmp_path])).splitlines()))
    assert [row["row"] for row in rows if row["method"] == "random_action"] == ["reference"]
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "Random actions<br><small>1 seed: " in html
    assert "In no table" not in html
    path = tmp_path / "random_action" / ledger.LEDGER_NAME
    path.write_text(path.read_text().replace("altered 1ef524f5e7df", "official"))
    assert only_comparison(tmp_path).references == ()
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert "Random actions on LIBERO-Spatial, seed 1: evaluated on another suite or other assets" in html


def test_only_starts_are_compared_when_nothing_was_learnt(tmp_path: Path) -> None:
    for method in ("random_action", "sequential"):
        write_record(tmp_path / method, method, 1, (), BASE)
    group = only_comparison(tmp_path)
    assert [one.first.method for one in group.methods] == ["sequential", "random_action"]
    assert "base model" in group.title
    write_report(collect([tmp_path]), tmp_path / "r.html")


def test_several_runs_without_evaluations_are_listed_with_the_reason(tmp_path: Path) -> None:
    write_study(tmp_path, methods=("er", "ewc"), seeds=(1,), num_tasks=1)
    for path in tmp_path.rglob(ledger.LEDGER_NAME):
        path.unlink()
    html = write_report(collect([tmp_path]), tmp_path / "r.html").read_text()
    assert html.count("seed 1: nothing has been evaluated yet</li>") == 2
    assert html.count('<details class="run"') == 2
    with pytest.raises(ReportError, match="no success matrix"):
        csv_table(collect([tmp_path]))
