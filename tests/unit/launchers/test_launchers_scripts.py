"""The bash launchers themselves: exit codes, nothing written. Their dry runs: tests/golden."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlinf.cli.console import run_cli
from rlinf.cli.run_sequence import main
from tests.sequences import LAUNCHERS, REPOSITORY, declaration


def run(script: str, *words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    return subprocess.run(
        ["bash", str(REPOSITORY / "examples" / script), *words],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def commands(output: str) -> list[str]:
    return [line.split("command", 1)[1].strip() for line in output.splitlines() if line.strip().startswith("command ")]


def test_planning_imports_no_torch_and_no_ray() -> None:
    code = "import sys, rlinf.cli.run_sequence; sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("run_embodiment_sequential.sh", (), "TASK_ID_OR_RANGE is missing"),
        ("run_embodiment_sequential.sh", ("10",), "tasks 0 to 9"),
        ("run_embodiment_sequential.sh", ("0", "gone/actor"), "the checkpoint 'gone/actor' does not exist"),
        ("run_embodiment_sequential.sh", ("0", "", "ten"), "MAX_EPOCH must be a whole number, got 'ten'"),
        ("run_embodiment_sequential.sh", ("0", "", "", "no/such"), "configuration 'no/such' does not exist"),
        ("run_embodiment_sequential.sh", ("0", "algorithm.clip=1"), "algorithm.clip"),
        ("run_embodiment_sequential.sh", ("0", "actor.micro_batch_size=3"), "must be a multiple"),
        ("eval_embodiment.sh", (), "LOCATION is missing"),
        ("eval_embodiment.sh", ("logs/sequential/gone",), "LOCATION='logs/sequential/gone' does not exist"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, words: tuple[str, ...], message: str
) -> None:
    signature, settings = declaration(script)
    with pytest.raises(SystemExit) as left:
        run_cli(main, [script, signature, *words, f"runner.logger.log_root={tmp_path / 'runs'}", "--", *settings])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert message in said
    assert said.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which a stand-in for `python` notes what it was started with."""
    note, stand_in = tmp_path / "started.txt", tmp_path / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\necho \"python $*\" >>'{note}'\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}")
    return note


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("small_policy", ("", "150", "8.7", "", "libero_goal", "libero_10"), "5 arguments are expected, 6 given ("),
        ("small_policy", ("--dry", "", "150"), "unknown option '--dry'; expected --dry-run"),
        ("small_policy", ("", "1.5"), "DEMONSTRATIONS_PER_TASK must be a whole number of at least 1, got '1.5'"),
        ("small_policy", ("", "0"), "DEMONSTRATIONS_PER_TASK must be a whole number of at least 1, got '0'"),
        ("small_policy", ("", "", "long"), "MINUTES must be a number above 0, got 'long'"),
        ("small_policy", ("", "", "0.0"), "MINUTES must be a number above 0, got '0.0'"),
        ("pretrained_policy", ("", "32", "10", "", "more"), "4 arguments are expected, 5 given ('more')"),
        ("few_shot_policy", (), "BASE is missing: the folder of a pretrained policy"),
        ("few_shot_policy", ("nowhere",), "BASE has no config.json: 'nowhere'"),
        ("simple_cnn", ("", "20", "1e4"), "STEPS must be a whole number of at least 1, got '1e4'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(
    tmp_path: Path, started: Path, script: str, words: tuple[str, ...], message: str
) -> None:
    done = run(f"supervised/make_{script}.sh", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert not done.stdout
    assert not started.exists()


def test_a_small_policys_dry_run_shows_what_a_run_starts(tmp_path: Path, started: Path) -> None:
    words = (str(tmp_path / "policy"), "20", ".5", str(tmp_path / "work"), "libero_goal")
    shown = run("supervised/make_small_policy.sh", *words, "--dry-run", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert not started.exists()
    assert "dry run: nothing was started" in shown.stdout
    modules = ["libero_runtime.demos libero_goal --episodes 20", "openvla_oft.pack", "openvla_oft.finetune"]
    for command, module in zip(commands(shown.stdout), modules, strict=True):
        assert command.startswith(f"python -m {module} ")
    done = run("supervised/make_small_policy.sh", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert started.read_text().splitlines() == [line.replace("\\", "") for line in commands(shown.stdout)]


def test_a_small_policys_dry_run_makes_no_work_folder(
    tmp_path: Path, started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    shown = run("supervised/make_small_policy.sh", "--dry-run", cwd=tmp_path)
    assert f"--output {tmp_path / 'temporary'}/" in shown.stdout
    assert not list((tmp_path / "temporary").iterdir())
    asked = run("supervised/make_small_policy.sh", "--help", cwd=tmp_path)
    assert (asked.returncode, asked.stdout.count("\n")) == (0, 1)
    assert asked.stdout.startswith("usage: bash make_small_policy.sh [OUTPUT] ")
    assert not started.exists()


def test_every_launcher_is_a_declaration() -> None:
    for script in [*LAUNCHERS.glob("run_*.sh"), *LAUNCHERS.glob("eval_*.sh")]:
        lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
        assert lines[0] == 'source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"', script.name
        assert lines[1].startswith("launch "), script.name
