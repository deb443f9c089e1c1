"""Every command line of the user's document, copied: each is read and planned as the document says."""

import json
import os
import shlex
from pathlib import Path

import hydra
import pytest

from rlinf.cli import run_sequence
from rlinf.cli.console import UsageError
from rlinf.cli.launcher import DEFAULT_CONFIG, Arguments, read_arguments
from rlinf.config import compose, load_config
from rlinf.custom.sequence.recipe import Step
from rlinf.run_layout import Checkpoint
from tests.sequences import LAUNCHERS, TINY, at, declaration, save, write_weights

OBJECT = "crl_experiment/libero_object_grpo_tiny"
CNN = "crl_experiment/libero_spatial_grpo_simple_cnn"

# "Each script has its own argument pattern. Below are the signatures for each", with the examples below them.
SIGNATURES = """
bash run_embodiment_sequential.sh TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]
# Example: bash ... "0,4"
# Example: bash ... 0 "" 15 "" 42
bash run_embodiment_ewc.sh TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]
# Example: bash ... "0,4"
bash run_embodiment_er.sh TASK_ID_OR_RANGE [ER_COEFF=0.03] [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]
# Example: bash ... "0,4" 0.03
bash run_embodiment_der.sh TASK_ID_OR_RANGE [DER_COEFF=0.03] [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]
# Example: bash ... "0,4" 0.03
bash run_embodiment_weight_merge.sh TASK_ID_OR_RANGE MERGE_COEFF [CONFIG_NAME] [SEED]
# Example: bash ... "0,4" 0.8
bash run_embodiment_slca.sh TASK_ID_OR_RANGE LR_STRING [CONFIG_NAME] [SEED]
# Example: bash ... "1,4" "2e-6,2e-6,1e-5"
bash run_embodiment_multitask.sh TASK_IDS [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]
# Example: bash ... "0,2,4"
bash run_embodiment_sequential_reorder.sh TASK_IDS RUN_ID [MAX_EPOCH] [CONFIG_NAME] [SEED] [INIT_CHECKPOINT]
# Example: bash ... "4,3,2,1,0" reorder_v1
bash run_embodiment_simple_cnn.sh TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]
# Example: bash ... 0
bash eval_embodiment_lora_scale.sh CHECKPOINT_LOCATION CURRENT_LORA_SCALE [PREVIOUS_LORA_COEFF] [STEP_NUMBER] [CONFIG_NAME]
# Example: bash ... logs/sequential/task_0 0.5
"""  # noqa: E501 - as in the document

# "All scripts are in examples/crl_experiment/": the table's examples.
TABLE = """
run_embodiment_sequential.sh | bash ... 0
run_embodiment_sequential.sh | bash ... "0,4"
run_embodiment_ewc.sh | bash ... "0,4"
run_embodiment_er.sh | bash ... 0 0.03
run_embodiment_der.sh | bash ... 0 0.03
run_embodiment_weight_merge.sh | bash ... "0,3" 0.8
run_embodiment_slca.sh | bash ... "1,4" "2e-6,2e-6,1e-5"
run_embodiment_multitask.sh | bash ... "0,2,4"
run_embodiment_simple_cnn.sh | bash ... 0
run_embodiment_sequential_reorder.sh | bash ... "0,4"
"""

# Quick start, evaluation, and what the sections on configuration show of weight merge and SLCA.
COMMANDS = """
bash examples/crl_experiment/run_embodiment_sequential.sh 0
bash examples/crl_experiment/run_embodiment_sequential.sh "0,4"
bash examples/crl_experiment/run_embodiment_weight_merge.sh "0,4" 0.8
bash examples/crl_experiment/run_embodiment_slca.sh "0,4" "2e-6,2e-6,1e-5"
bash examples/crl_experiment/eval_embodiment.sh logs/sequential/task_0_seed1234
bash examples/crl_experiment/eval_embodiment.sh logs/sequential/task_0_seed1234 20
bash examples/crl_experiment/eval_embodiment.sh logs/simple_cnn/task_0_seed1234 10 crl_experiment/libero_spatial_grpo_simple_cnn_eval
bash examples/crl_experiment/eval_embodiment_lora_scale.sh logs/sequential/task_0 0.5
"""  # noqa: E501 - as in the document


# "CRL-specific parameters", with and without the plus.
def signatures() -> dict[str, list[str]]:
    """The documented argument names of each script."""
    lines = [line.split()[1:] for line in SIGNATURES.splitlines() if line.startswith("bash ")]
    return {script: words for script, *words in lines}


def command_lines() -> list[tuple[str, ...]]:
    """Every documented call: script and arguments."""
    calls: list[tuple[str, ...]] = []
    script = ""
    for line in SIGNATURES.splitlines():
        words = shlex.split(line, comments=False)
        if line.startswith("bash "):
            script = words[1]
        elif line.startswith("# Example:"):
            calls.append((script, *words[4:]))
    for line in filter(None, TABLE.splitlines()):
        script, _, call = line.partition(" | ")
        calls.append((script, *shlex.split(call)[2:]))
    for line in filter(None, COMMANDS.splitlines()):
        _, path, *words = shlex.split(line)
        calls.append((Path(path).name, *words))
    return calls


def read(script: str, *words: str) -> Arguments:
    signature, fixed = declaration(script)
    return read_arguments([script, signature, *words, "--", *fixed])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the checkpoints that the document evaluates are there."""
    root = tmp_path_factory.mktemp("repository")
    for folder, weights, config in (
        ("logs/sequential/task_0_seed1234", (), DEFAULT_CONFIG),
        ("logs/simple_cnn/task_0_seed1234", ("model.pt",), CNN),
    ):
        for step in (10, 20):
            write_weights(Checkpoint.at(root / folder, step).actor, *weights)
        (root / folder / "run.json").write_text(json.dumps({"config_name": config}))
    return root


def steps_of(repository: Path, arguments: Arguments) -> tuple[str, tuple[Step, ...]]:
    plans = {"sequence": run_sequence.sequence_steps, "evaluate": run_sequence.evaluation_steps}
    return plans[arguments.action](arguments, at(repository))


def plan(repository: Path, arguments: Arguments) -> str:
    """What a dry run shows."""
    heading, steps = steps_of(repository, arguments)
    lines = [line for number, step in enumerate(steps, 1) for line in step.describe(number, len(steps))]
    return "\n".join([heading, *lines])


def test_every_launcher_has_the_documented_signature() -> None:
    documented = signatures()
    assert len(documented) == 10
    for script, words in documented.items():
        declared = declaration(script)[0].split()
        assert [_name(word) for word in declared] == [_name(word) for word in words], script
        optional = {_name(word) for word in words if word.startswith("[")}
        assert optional <= {_name(word) for word in declared if word.startswith("[")}, script
        defaults = [word for word in words if "=" in word]
        assert set(defaults) <= set(declared), script


def _name(word: str) -> str:
    return word.strip("[]").partition("=")[0]


def test_further_launchers_are_called_as_ewcs() -> None:
    documented = signatures().keys() | {"eval_embodiment.sh"}
    scripts = {path.name for path in LAUNCHERS.glob("*.sh")} - {"launch.sh", "common_functions.sh"}
    assert documented <= scripts
    assert all(os.access(LAUNCHERS / script, os.X_OK) for script in scripts)
    for script in scripts - documented:
        signature, settings = declaration(script)
        assert signature == declaration("run_embodiment_ewc.sh")[0]
        assert settings == [f"method={script.removeprefix('run_embodiment_').removesuffix('.sh')}"]


@pytest.mark.parametrize("call", list(dict.fromkeys(command_lines())), ids=" ".join)
def test_every_documented_command_line_is_planned(repository: Path, call: tuple[str, ...]) -> None:
    script, *words = call
    text = plan(repository, read(script, *words))
    config = CNN if "simple_cnn" in text else DEFAULT_CONFIG
    assert f"--config-name {config}" in text
    assert "runner.seed=42 " in text if "42" in words else "runner.seed=1234 " in text


def test_epochs_are_an_argument_or_an_override(repository: Path) -> None:
    """Weight merge and SLCA have no argument MAX_EPOCH."""
    text = plan(repository, read("run_embodiment_weight_merge.sh", "0", "0.8", "runner.max_epochs=2"))
    assert "global_step_2/actor" in text
    with pytest.raises(UsageError, match="give the argument MAX_EPOCH instead"):
        plan(repository, read("run_embodiment_ewc.sh", "0", "runner.max_epochs=2"))


CALLS = (
    ("run_embodiment_sequential.sh", "1", "logs/sequential/task_0_seed1234", "15", "", "42"),
    ("run_embodiment_sequential_reorder.sh", "4,0", "reorder_v1", "3", TINY, "7"),
    ("run_embodiment_weight_merge.sh", "5,6", "0.5", OBJECT),
    ("run_embodiment_slca.sh", "1,2", "2e-6,3e-6,1e-5"),
    ("run_embodiment_multitask.sh", "0,2,4", "", "", TINY),
    ("eval_embodiment_lora_scale.sh", "logs/sequential/task_0", "0.5"),
)


def test_a_dry_run_shows_what_is_done_and_what_is_left(tmp_path: Path) -> None:
    """Its commands are held by tests/golden."""
    folder = "logs/weight_merge/task_0_seed7"
    save(tmp_path / folder, 3)
    shown = plan(tmp_path, read("run_embodiment_weight_merge.sh", "0,1", "0.8", TINY, "7", "runner.eval_before=false"))
    assert [line for line in shown.splitlines() if not line.startswith("  command ")] == [
        f"weight_merge: libero_spatial, task 0, then 1; 3 epochs each; seed 7; config {TINY}; results in "
        "logs/weight_merge",
        "[1/2] task 0: evaluate all tasks",
        f"  folder      {folder}",
        "  start       base model",
        f"  checkpoint  {folder}/checkpoints/global_step_3/actor",
        "[2/2] task 1: train to epoch 3; evaluate all tasks",
        "  folder      logs/weight_merge/task_1_seed7",
        f"  merged      {folder}/checkpoints/global_step_3/actor",
        "  start       merged model",
        "  checkpoint  logs/weight_merge/task_1_seed7/checkpoints/global_step_3/actor",
    ]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_step_has_the_configuration_that_its_command_composes(repository: Path, call: tuple[str, ...]) -> None:
    for step in steps_of(repository, read(*call))[1]:
        assert step.config == load_config(step.command[2], step.command[3:])


def test_a_launcher_composes_once(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tasks there are."""
    compositions = []
    monkeypatch.setattr(compose, "compose", lambda **names: compositions.append(names) or hydra.compose(**names))
    _, steps = steps_of(repository, read("run_embodiment_ewc.sh", "0,4", "", "", TINY))
    assert (len(steps), len(compositions)) == (5, 1)
