"""The results table: rows are launchers' command lines, what is done is skipped, numbers come from the ledgers."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from benchmarks import crl_table
from benchmarks.crl_after import LastPolicy, evaluation
from benchmarks.crl_cells import CELL, Cell, keep, run_cells
from benchmarks.crl_pictures import glance, place_names
from benchmarks.crl_rows import ROWS, SEARCHED, SUITES, at_rate, command
from benchmarks.crl_shown import lines_of, table
from rlinf.cli import run_sequence
from rlinf.cli.launcher import read_arguments
from rlinf.reporting import ledger
from rlinf.reporting.diagnoses import Diagnosis, read
from rlinf.reporting.jsonlines import append_record
from rlinf.run_layout import DIAGNOSTICS_FILE, LEDGER_FILE
from tests.sequences import at, declaration, save
from tests.study import EPOCHS, write_record, write_study
from tests.unit.methods.replay_demos import write_hdf5
from tests.unit.methods.trained_runs import write_run

SPATIAL = "libero_spatial"


def planned(words, root, *, plan=run_sequence.sequence_steps):
    """Heading and steps of a launcher's command line."""
    script = words[1].rpartition("/")[2]
    signature, fixed = declaration(script)
    return plan(read_arguments([script, signature, *words[2:], "--", *fixed]), at(root))


@pytest.mark.parametrize("suite", SUITES)
def test_every_row_is_planned_with_the_suites_tasks(suite, tmp_path):
    """What rows share is planned for one suite."""
    stages, rows = 0, list(ROWS) if suite == SPATIAL else ["sequential", "multitask"]
    for row in rows:
        words = command(row, suite, seed=7, logs=tmp_path, settings=["env.video_episodes=0"], epochs=2)
        heading, steps = planned(words, tmp_path)
        assert "seed 7" in heading, row
        learnt = [task for step in steps for task in step.config.env.fixed_task_ids or ()]
        assert sorted(learnt) == SUITES[suite].tasks, row
        assert {step.config.env.suite for step in steps} == {suite}
        assert {step.config.runner.max_epochs for step in steps} == {10 if row == "multitask" else 2}
        stages += len(steps)
    assert stages == 5 * (len(rows) - 1) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "ewk"], "--rows: ewk is not known"),
        (["--seeds", "1,x"], "--seeds 1,x must be whole numbers"),
        (["--jobs", "0"], "--jobs 0"),
    ],
)
def test_what_cannot_be_run_is_one_message(arguments, message, capsys):
    assert crl_table.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_cells_that_are_done_are_skipped_and_shown(tmp_path, capsys):
    kept = []
    for row in ("sequential", "ewc"):
        for seed in (0, 1):
            logs = write_study(tmp_path / f"{row}{seed}", methods=(row,), seeds=(seed,))
            folder = tmp_path / "out" / "libero_spatial" / row / f"seed{seed}"
            cell = Cell(row, seed, ("bash", "launcher.sh"), logs, folder)
            keep(cell, 12.3, commit="abc")
            kept.append(cell)
            about = json.loads((folder / CELL).read_text())
            assert (about["seconds"], about["commit"], about["command"]) == (12, "abc", "bash launcher.sh")
            assert not list(folder.rglob("*.safetensors"))
    given = ["libero_spatial", "--rows", "sequential,ewc,er", "--seeds", "0,1"]
    given += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert crl_table.main(given) == 0, "nothing is left to run"
    captured = capsys.readouterr()
    assert "er: left out, it needs --demonstrations" in captured.err
    lines = captured.out.rstrip().splitlines()
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| Seq. FT", "| EWC"]
    assert all(" | 2 | " in line for line in lines[4:])
    assert not (tmp_path / "work").exists()

    line = lines_of([cell for cell in kept if cell.row == "ewc"])[0]
    ends = [100 * end for end in line.values("avg")]
    mean, half = (ends[0] + ends[1]) / 2, abs(ends[0] - ends[1]) / 2  # of two, the standard error is half the range
    assert half > 0
    assert lines[5].split(" | ")[4] == f"{mean:.1f} ± {half:.1f}"

    learnt, forgotten, _ = glance(SPATIAL, lines_of(kept)).axes
    assert [label.get_text() for label in learnt.get_yticklabels()] == ["Seq. FT (2)", "EWC (2)"]
    marks = {one.get_marker(): one.get_xdata() for one in learnt.lines if round(one.get_ydata()[0]) == 1}
    assert marks["o"] == pytest.approx([mean])
    assert marks["|"] == pytest.approx([100 * np.mean(line.values("base"))])
    assert sorted(marks["."]) == pytest.approx(sorted(ends))
    assert not [one for one in forgotten.lines if one.get_marker() == "|"], "nothing was forgotten before"

    pictures = [*given, "--show", "--pictures", str(tmp_path / "pictures")]
    assert crl_table.main(pictures) == 0
    assert not (tmp_path / "pictures" / "distance.png").exists(), "nobody looked at what training changed"
    last = max(ledger.read(next(kept[2].out.rglob(LEDGER_FILE))), key=lambda one: len(one.learnt_tasks))
    about = {"effective_rank": 2.5, "relative_change": 0.01, "frames": 8, "time": "2026-05-04T10:00:00+00:00"}
    same = ("method", "suite", "seed", "learnt_tasks", "checkpoint", "temperature")
    seen = Diagnosis(**about, **{name: getattr(last, name) for name in same}, kl=dict.fromkeys(range(10), 0.1))
    append_record(kept[2].out / "ewc" / DIAGNOSTICS_FILE, seen)
    assert crl_table.main(pictures) == 0
    for name in ("glance", "tradeoff", "matrices", "training", "distance"):
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            colours = [colour for _, colour in picture.convert("RGB").getcolors(1 << 24)]
        assert any(max(colour) - min(colour) > 60 for colour in colours), "axes and their words are grey"


def test_a_search_is_of_one_task_with_each_learning_rate(tmp_path, capsys):
    words = command("full", SPATIAL, seed=7, logs=tmp_path, settings=[], epochs=2, task=SUITES[SPATIAL].search)
    _, (step,) = planned(words, tmp_path)
    assert step.config.env.fixed_task_ids == [7]
    assert 7 not in SUITES[SPATIAL].tasks
    for rate in SEARCHED["full"]:
        logs = write_study(tmp_path / rate, methods=("sequential",), seeds=(0,))
        folder = tmp_path / "out" / SPATIAL / "search" / f"full_lr_{rate}" / "seed0"
        keep(Cell("full", 0, ("bash",), logs, folder, learning_rate=rate), 1.0, commit="abc")
    given = [SPATIAL, "--search", "--rows", "full,ewc", "--seeds", "0", "--out", str(tmp_path / "out")]
    assert crl_table.main([*given, "--work", str(tmp_path / "work")]) == 0, "nothing is left to run"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "libero_spatial: task 7 alone"
    assert [line.split(" | ")[1] for line in lines[4:]] == list(SEARCHED["full"])
    assert all(line.startswith("| Full weights | ") for line in lines[4:])
    assert crl_table.main([*given, "--show", "--rates", "1e-4"]) == 0
    assert [line.split(" | ")[1] for line in capsys.readouterr().out.splitlines()[4:]] == ["1e-4"]
    tried = command("sequential", SPATIAL, seed=7, logs=tmp_path, settings=[], epochs=2, task=7)
    _, (step,) = planned([*tried, *at_rate("1e-3_warmup_8")], tmp_path)
    assert (step.config.actor.optim.lr, step.config.actor.optim.lr_warmup_steps) == (1e-3, 8)


def test_cells_at_the_same_time_share_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    words = ("bash", "-c", "echo sees $CUDA_VISIBLE_DEVICES; sleep 1")
    cells = [Cell("ewc", seed, words, tmp_path / f"{seed}", tmp_path / "out" / f"{seed}") for seed in (0, 1)]
    for cell in cells:
        write_study(cell.logs, methods=("ewc",), seeds=(cell.seed,))
    assert run_cells(cells, minutes=None, jobs=2, commit="abc")
    assert [(cell.logs / "launcher.log").read_text() for cell in cells] == ["sees 3\n", "sees 5\n"]


@pytest.fixture
def broken_python(tmp_path):
    """A `python` that cannot do anything."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho no such model; exit 2\n")
    python.chmod(0o755)
    return python


def test_a_cell_that_fails_is_named_and_not_kept(tmp_path, capsys, monkeypatch, broken_python):
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    given = ["libero_spatial", "--rows", "sequential", "--seeds", "0"]
    given += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert crl_table.main(given) == 1
    assert "sequential seed 0: failed with exit code 2" in capsys.readouterr().out
    assert "no such model" in (tmp_path / "work/libero_spatial/sequential_seed0/launcher.log").read_text()
    assert not (tmp_path / "out").exists()


def write_further(ledger_file, change, *, temperature=1.6, rate=0.25):
    """An evaluation of the last row on a changed suite, at another temperature where one is given."""
    last = ledger.rows([one for one in ledger.read(ledger_file) if one.suite == SPATIAL])[-1]
    further = dataclasses.replace(
        last, suite=f"{SPATIAL}_{change}", learnt_suite=SPATIAL, temperature=temperature,
        success=dict.fromkeys(last.success, rate),
    )  # fmt: skip
    ledger.append(ledger_file, further)


def test_the_last_policy_alone_is_evaluated_on_what_is_missing_of_libero_pro(tmp_path):
    logs = write_study(tmp_path / "logs", methods=("sequential",), seeds=(1,))
    file, run = logs / "sequential" / LEDGER_FILE, logs / "sequential" / "task_4_seed1"
    policy = LastPolicy.of(logs, SPATIAL)
    assert policy.checkpoint.actor == run / f"checkpoints/global_step_{EPOCHS}/actor"
    assert policy.perturbed == tuple(f"{SPATIAL}_{change}" for change in ("lan", "object", "swap", "task"))
    save(run, EPOCHS)
    words = evaluation(policy, "full", ["env.video_episodes=0"])
    _, (step,) = planned(words, tmp_path, plan=run_sequence.evaluation_steps)
    assert (step.folder, step.learns) == ("logs/sequential/task_4_seed1", False)
    assert step.config.env.suite == f"{SPATIAL}_lan"
    assert step.config.env.eval_suites == [f"{SPATIAL}_{change}" for change in ("object", "swap", "task")]
    assert (step.config.env.video_episodes, step.config.actor.model.is_lora) == (0, False)

    write_further(file, "lan")
    write_further(file, "swap")
    assert LastPolicy.of(logs, SPATIAL).perturbed == (f"{SPATIAL}_object", f"{SPATIAL}_task")
    last = ledger.rows([one for one in ledger.read(file) if one.suite == SPATIAL])[-1]
    ledger.append(file, dataclasses.replace(last, temperature=0.0, decoding="greedy"))
    write_further(file, "swap", temperature=0.0)
    changes = [suite.removeprefix(f"{SPATIAL}_") for suite in LastPolicy.of(logs, SPATIAL).perturbed]
    assert changes == ["lan", "object", "task"], "each suite is evaluated at all temperatures, as the tasks are"
    assert LastPolicy.of(tmp_path / "nothing", SPATIAL) is None


def test_suites_of_libero_pro_are_columns_where_any_row_was_evaluated_there(tmp_path):
    cells = []
    for row in ("sequential", "ewc"):
        logs = write_study(tmp_path / row, methods=(row,), seeds=(1,))
        if row == "ewc":
            write_further(logs / row / LEDGER_FILE, "swap", rate=0.3)
            write_further(logs / row / LEDGER_FILE, "lan", rate=0.7)
        cells.append(Cell(row, 1, ("bash",), logs, tmp_path / "out" / row / "seed1"))
        keep(cells[-1], 1.0, commit="abc")
    head, _, without, with_both = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table(SPATIAL, lines_of(cells)).splitlines()[2:]
    ]
    assert head[-3:] == ["Zero-shot", "Other words", "Other places"]
    assert (without[0], without[-2:]) == ("Seq. FT", ["", ""])
    assert (with_both[0], [cell.partition(" ")[0] for cell in with_both[-2:]]) == ("EWC", ["70.0", "30.0"])
    (line,) = table(SPATIAL, lines_of(cells[:1])).splitlines()[2:3]
    assert line.endswith("Zero-shot |")
    write_study(tmp_path / "further", methods=("ewc",), seeds=(2,))
    cells.append(Cell("ewc", 2, ("bash",), tmp_path / "further", tmp_path / "out" / "ewc" / "seed2"))
    keep(cells[-1], 1.0, commit="abc")
    shown = table(SPATIAL, lines_of(cells[1:])).splitlines()[-1]
    assert shown.startswith("| EWC | sampled at 1.6 | 2 |")
    assert [line.looked_at for line in lines_of(cells)] == [None, None]
    assert shown.count("(of 1)") == 2, "LIBERO-PRO was played by one seed of two"


def test_what_training_changed_is_found_out_and_kept_with_a_cell(
    small_policy, tmp_path, capsys, monkeypatch, broken_python
):
    """After its launcher, which has nothing left to do here."""
    logs, demonstrations = tmp_path / "logs", tmp_path / "demonstrations"
    write_hdf5(demonstrations, task_ids=range(10), num_demos=1, num_steps=2)
    write_run(small_policy, logs / "sequential", adapter_seed=1)
    for learnt in ((), (2,)):
        checkpoint = "task_2_seed7/global_step_3" if learnt else "base"
        write_record(logs / "sequential", "sequential", 7, learnt, np.full(10, 0.5), checkpoint=checkpoint)
    cell = Cell("sequential", 7, ("true",), logs, tmp_path / "out" / "seed7", SPATIAL, demonstrations=demonstrations)
    assert run_cells([cell], minutes=None, jobs=1, commit="abc"), capsys.readouterr().out
    (kept,) = read(cell.out / "sequential" / DIAGNOSTICS_FILE)
    assert sorted(kept.kl) == sorted(kept.fisher_energy) == list(range(10))
    assert json.loads((cell.out / CELL).read_text())["command"] == "true"
    assert cell.after() is None

    (logs / "sequential" / DIAGNOSTICS_FILE).unlink()
    monkeypatch.setattr("sys.executable", str(broken_python))
    other = dataclasses.replace(cell, out=tmp_path / "out" / "other")
    assert not run_cells([other], minutes=None, jobs=1, commit="abc")
    assert "sequential seed 7: failed with exit code 2" in capsys.readouterr().out
    assert not other.out.exists()


@pytest.mark.parametrize("seed", range(4))
def test_no_name_in_a_picture_lies_on_another_or_on_a_point(seed):
    rng, figure = np.random.default_rng(seed), Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    crowded = zip(rng.uniform(-20, 20, 16), rng.uniform(30, 75, 16), strict=True)
    places = [*crowded, (60, 9), (64, 8), (62, 16)]
    points = [(float(x), float(y), f"method {i}", "black") for i, (x, y) in enumerate(places)]
    axes.plot([x for x, *_ in points], [y for _, y, *_ in points], "o", markersize=6)
    axes.set(xlim=(-41, 73), ylim=(-2, 102))
    place_names(axes, points, crowd_ends=22, column=22)
    figure.canvas.draw()
    words = [Text.get_window_extent(text) for text in axes.texts]
    assert len(words) == len(points)
    assert not [(a, b) for i, a in enumerate(words) for b in words[:i] if a.overlaps(b)]
    assert not [place for place in axes.transData.transform([point[:2] for point in points])
                for word in words if word.contains(*place)]  # fmt: skip
