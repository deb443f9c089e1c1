"""What is handed on as a Hydra override arrives as it was, whatever characters are in it."""

import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rlinf.config import REPOSITORY, ConfigError, config_yaml, load_config
from rlinf.config.overrides import override
from tests.sequences import TINY, write_weights

STRANGE = """epoch=9, b#c 'd' "e" [f]{g:h}(i) $j ${k} \\ l\\'m ~n é 漢;&|*?!"""
CHARACTERS = "ab01.e/=,#'\"\\${}[]() \t\né漢:@~!&|;*?%-+<>`^"


def random_texts(count: int) -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(CHARACTERS, k=rng.randrange(10))) for _ in range(count)]


@pytest.mark.parametrize("texts", [["true", "null", "1e5", "7", "", STRANGE], random_texts(200)])
def test_hydras_own_parser_reads_what_was_given(texts: list[str]) -> None:
    parser = OverridesParser.create()
    for text in texts:
        read = parser.parse_overrides(
            [override("key", text), override("list", [text, "x"]), override("path", Path(text))]
        )
        values = OmegaConf.to_container(OmegaConf.create([one.value() for one in read]), resolve=True)
        assert values == [text, [text, "x"], str(Path(text))]


def test_plain_values_are_spelt_plainly() -> None:
    path = "logs/sequential/task_0_seed7/checkpoints/global_step_10/actor"
    assert override("a.b", path) == f"a.b={path}"
    assert override("a", [path, "/x"]) == f"a=[{path},/x]"
    values = {"3": 3, "[0,2]": (0, 2), "false": False, "0.3": 0.3, "1e-06": 1e-6, "null": None}
    assert [override("a", value) for value in values.values()] == [f"a={text}" for text in values]


@pytest.mark.parametrize("text", [STRANGE, "${oc.env:HOME}", "a${b", "\\${c}", *random_texts(5)])
def test_a_configuration_and_its_file_hold_what_was_given(text: str) -> None:
    words = [override("runner.logger.log_root", text), override("actor.model.previous_lora_paths", [text])]
    config = load_config(TINY, words)
    assert config.runner.logger.log_root == text
    assert config.actor.model.previous_lora_paths == [text]
    stored = OmegaConf.to_container(OmegaConf.create(config_yaml(config)), resolve=True)
    assert isinstance(stored, dict)
    assert stored["runner"]["logger"]["log_root"] == text


@pytest.mark.parametrize("path", ["/runs/epoch=9/logs", "/runs/a,b", "/runs/#1", "/runs/é"])
def test_what_hydra_cannot_read_is_shown_as_it_must_be_written(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TINY, ["runner.seed=7", f"runner.logger.log_root={path}"])
    advice = str(caught.value).partition(" write ")[2]
    assert load_config(TINY, shlex.split(advice)).runner.logger.log_root == path


def test_a_printed_plan_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    checkpoint, logs = tmp_path / STRANGE / "actor", tmp_path / STRANGE / "logs"
    write_weights(checkpoint)
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    launcher = "examples/crl_experiment/run_embodiment_sequential.sh"
    words = ["1", str(checkpoint), "", TINY, "7", override("runner.logger.log_root", logs), "--dry-run"]
    (line,) = [line for line in run("bash", launcher, *words).splitlines() if line.startswith("  command")]
    shown = OmegaConf.to_container(OmegaConf.create(run("bash", "-c", f"{line.split(None, 1)[1]} --cfg")), resolve=True)
    assert isinstance(shown, dict)
    assert shown["actor"]["model"]["lora_path"] == str(checkpoint)
    assert shown["runner"]["logger"]["log_path"] == f"{logs}/sequential/task_1_seed7"
