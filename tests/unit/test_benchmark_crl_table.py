"""The results table: rows are launchers' command lines, what is done is skipped, numbers come from the ledgers."""

import json

import pytest

from benchmarks import crl_table
from benchmarks.crl_rows import ROWS, SUITES, command
from rlinf.cli import run_sequence
from rlinf.cli.launcher import read_arguments
from tests.sequences import at, declaration
from tests.study import write_study


@pytest.mark.parametrize("suite", SUITES)
def test_every_row_is_planned_with_the_suites_tasks(suite, tmp_path):
    stages = 0
    for row in ROWS:
        words = command(row, suite, seed=7, logs=tmp_path, settings=["env.video_episodes=0"], epochs=2)
        script = words[1].rpartition("/")[2]
        signature, fixed = declaration(script)
        arguments = read_arguments([script, signature, *words[2:], "--", *fixed])
        heading, steps = run_sequence.sequence_steps(arguments, at(tmp_path))
        assert "seed 7" in heading, row
        learnt = [task for step in steps for task in step.config.env.fixed_task_ids or ()]
        assert sorted(learnt) == SUITES[suite].tasks, row
        assert {step.config.env.suite for step in steps} == {suite}
        assert {step.config.runner.max_epochs for step in steps} == {10 if row == "multitask" else 2}
        stages += len(steps)
    assert stages == 5 * (len(ROWS) - 1) + 1


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
    for row in ("sequential", "ewc"):
        for seed in (0, 1):
            logs = write_study(tmp_path / f"{row}{seed}", methods=(row,), seeds=(seed,))
            folder = tmp_path / "out" / "libero_spatial" / row / f"seed{seed}"
            cell = crl_table.Cell(row, seed, ("bash", "launcher.sh"), logs, folder)
            crl_table.keep(cell, 12.3, commit="abc")
            about = json.loads((folder / crl_table.CELL).read_text())
            assert (about["seconds"], about["commit"], about["command"]) == (12, "abc", "bash launcher.sh")
            assert not list(folder.rglob("*.safetensors"))
    given = ["libero_spatial", "--rows", "sequential,ewc,er", "--seeds", "0,1"]
    given += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert crl_table.main(given) == 0, "nothing is left to run"
    captured = capsys.readouterr()
    assert "er: left out, it needs --demonstrations" in captured.err
    lines = captured.out.splitlines()
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| Seq. FT", "| EWC"]
    assert all(" | 2 | " in line for line in lines[4:])
    assert not (tmp_path / "work").exists()


def test_a_cell_that_fails_is_named_and_not_kept(tmp_path, capsys):
    given = ["libero_spatial", "--rows", "sequential", "--seeds", "0", "--model", str(tmp_path / "nothing")]
    given += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert crl_table.main(given) == 1
    assert "sequential seed 0: failed with exit code 2" in capsys.readouterr().out
    assert "nothing" in (tmp_path / "work/libero_spatial/sequential_seed0/launcher.log").read_text()
    assert not (tmp_path / "out").exists()
