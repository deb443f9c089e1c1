"""What is refused, before a step is begun, by a step or by a worker, is one message and exit code 2.

Other messages: tests/unit/test_launchers_scripts.py."""

import shutil
from pathlib import Path

import pytest

from tests.launchers import REPOSITORY, TINY, command, run


def test_a_broken_tokenizer_ends_an_evaluation_with_one_message(tmp_path):
    broken = Path(shutil.copytree(REPOSITORY / "model" / "tiny-openvla-oft-libero-spatial", tmp_path / "policy"))
    (broken / "tokenizer.json").write_text("{}")
    own = (f"actor.checkpoint_load_path={broken}", f"runner.logger.log_root={tmp_path / 'logs'}")
    text = run(command("eval_embodiment.sh", "base", "", TINY, *own), code=2)
    error = f"error: the tokenizer in {broken} cannot be read (KeyError: 'added_tokens'); expected that of a Llama"
    assert error in text


@pytest.mark.parametrize(("arguments", "message"), [(["3,1"], "reversed"), (["0"], "hf download")])
def test_bad_input(arguments, message, tmp_path):
    words = command("run_embodiment_sequential.sh", *arguments, f"runner.logger.log_root={tmp_path / 'logs'}")
    assert message in run(words, code=2)
    assert not list(tmp_path.rglob("*.json*")), "nothing half-written"
