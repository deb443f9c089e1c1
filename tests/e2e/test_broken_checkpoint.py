"""What a worker refuses reaches the user as one message with exit code 2."""

import shutil
from pathlib import Path

from tests.launchers import REPOSITORY, TINY, command, run


def test_a_broken_tokenizer_ends_an_evaluation_with_one_message(tmp_path):
    broken = Path(shutil.copytree(REPOSITORY / "model" / "tiny-openvla-oft-libero-spatial", tmp_path / "policy"))
    (broken / "tokenizer.json").write_text("{}")
    own = (f"actor.checkpoint_load_path={broken}", f"runner.logger.log_root={tmp_path / 'logs'}")
    text = run(command("eval_embodiment.sh", "base", "", TINY, *own), code=2)
    error = f"error: the tokenizer in {broken} cannot be read (KeyError: 'added_tokens'); expected that of a Llama"
    assert error in text
