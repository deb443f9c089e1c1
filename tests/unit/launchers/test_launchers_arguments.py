"""The command line of a launcher: signature, positional arguments, options, overrides."""

from pathlib import Path

import pytest

from rlinf.cli import run_sequence
from rlinf.cli.console import UsageError
from rlinf.cli.launcher import Arguments, parse_signature, read_arguments
from rlinf.config import ConfigError
from tests.sequences import declaration

SEQUENTIAL = "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]"


def read(*words: str, signature: str = SEQUENTIAL, settings: tuple[str, ...] = ()) -> Arguments:
    return read_arguments(["run.sh", signature, *words, "--", *settings])


def test_signature_names_required_optional_and_default() -> None:
    found = parse_signature("TASKS [ER_COEFF=0.03] [SEED] LOCATION|base")
    assert found == {"TASKS": None, "ER_COEFF": "0.03", "SEED": "", "LOCATION": None}


@pytest.mark.parametrize("position", range(4))
def test_dry_run_and_overrides_may_stand_anywhere(position: int) -> None:
    words = ["0,1", "", "3"]
    words[position:position] = ["--dry-run", "--resume", "+algorithm.use_ewc=true", "env.fixed_task_ids=[0,1]"]
    arguments = read(*words)
    assert arguments.is_dry_run
    assert arguments.overrides == ("+algorithm.use_ewc=true", "env.fixed_task_ids=[0,1]")
    assert [arguments.value(name) for name in ("TASK_ID_OR_RANGE", "CHECKPOINT_PATH", "MAX_EPOCH")] == ["0,1", "", "3"]


@pytest.mark.parametrize("word", ["a.b=1", "+a.b=1", "++a.b=1", "~a.b", "~a.b=1", "a=", "group@pkg=x", "suite=x"])
def test_what_is_an_override(word: str) -> None:
    assert read("0", word).overrides == (word,)


@pytest.mark.parametrize(
    "word", ["./runs/lr=3/actor", "/runs/lr=3/actor", "runs/lr=3/actor", "logs/sequential/task_0_seed1234", "0,4"]
)
def test_what_is_a_positional_argument(word: str) -> None:
    arguments = read("0", word)
    assert arguments.overrides == ()
    assert arguments.value("CHECKPOINT_PATH") == word


def test_a_path_that_looks_like_an_override_is_one_where_it_leads_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("0", "epoch=9/actor").overrides == ("epoch=9/actor",)
    (tmp_path / "epoch=9" / "actor").mkdir(parents=True)
    assert read("0", "epoch=9/actor").values["CHECKPOINT_PATH"] == "epoch=9/actor"
    assert read("0", f"a={'x' * 9999}").overrides, "longer than a path may be"


def test_launcher_overrides_take_arguments_and_come_before_the_users() -> None:
    arguments = read(
        "0,4",
        "0.1",
        "algorithm.bc_coeff=0.2",
        signature="TASK_ID_OR_RANGE [ER_COEFF=0.03] [SEED]",
        settings=("method=er", "algorithm.use_experience_replay=true", "algorithm.bc_coeff={ER_COEFF}"),
    )
    assert arguments.overrides == (
        "method=er",
        "algorithm.use_experience_replay=true",
        "algorithm.bc_coeff=0.1",
        "algorithm.bc_coeff=0.2",
    )


def test_default_of_the_signature_and_absent_argument() -> None:
    settings = ("algorithm.bc_coeff={ER_COEFF}", "slca.vision={LR_STRING[0]}", "slca.head={LR_STRING[2]}")
    given = read("0", signature="TASK [ER_COEFF=0.03] [LR_STRING]", settings=settings)
    assert given.overrides == ("algorithm.bc_coeff=0.03",)
    given = read("0", "", "2e-6, 3e-6, 1e-5", signature="TASK [ER_COEFF=0.03] [LR_STRING]", settings=settings)
    assert given.overrides == ("algorithm.bc_coeff=0.03", "slca.vision=2e-6", "slca.head=1e-5")


def test_a_list_of_learning_rates_is_complete() -> None:
    with pytest.raises(UsageError, match=r"three learning rates .* got '2e-6,2e-6'"):
        read("0", "2e-6,2e-6", signature="TASK LR_STRING")


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("weight_merge", ("0", "1.5"), r"method.merge.coeff=1.5 must be between 0 and 1"),
        ("weight_merge", ("0", "nan"), r"method.merge.coeff=nan must be between 0 and 1"),
        ("er", ("0", "much"), r"method.replay.coeff.*'much'"),
        ("er", ("0", "-0.1"), r"method.replay.coeff=-0.1 must not be negative"),
        ("slca", ("0", "2e-6,2e-6,fast"), r"method.slca.head.*'fast'"),
    ],
)
def test_coefficients_that_cannot_be_meant(script: str, words: tuple[str, ...], message: str) -> None:
    signature, settings = declaration(f"run_embodiment_{script}.sh")
    with pytest.raises(ConfigError, match=message):
        run_sequence.compose(read(*words, signature=signature, settings=tuple(settings)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "TASK_ID_OR_RANGE is missing"),
        (("",), "TASK_ID_OR_RANGE is missing"),
        (("0", "--dryrun"), "unknown option '--dryrun'; expected --resume or --dry-run"),
        (("0", "", "", "", "1", "more"), "5 arguments are expected, 6 given"),
    ],
)
def test_wrong_command_lines_show_the_usage(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(*words)
    assert message in str(caught.value)
    assert f"usage: bash run.sh {SEQUENTIAL}" in str(caught.value)


def test_help_needs_no_arguments() -> None:
    assert read("--help").is_help
