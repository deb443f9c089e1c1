"""The command that computes base-model logits of demonstrations."""

import pytest

from rlinf.cli.console import user_message
from rlinf.cli.precompute_logits import main
from tests.unit.replay_demos import SUITE, task_names, write_hdf5

CONFIG = "crl_experiment/libero_spatial_grpo_tiny"


def test_a_dry_run_lists_what_is_there_and_writes_nothing(tmp_path, capsys):
    write_hdf5(tmp_path, task_ids=range(10), num_demos=1, num_steps=4)
    stored = tmp_path / SUITE / "base_logits" / f"{task_names()[1]}_demo.hdf5" / "demo_0.safetensors"
    stored.parent.mkdir(parents=True)
    stored.touch()
    before = sorted(tmp_path.rglob("*"))
    assert main([CONFIG, "--dry-run", f"method.replay.demonstrations={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith(f"task 0, 4 frames: {tmp_path}")
    assert [line.endswith("(missing)") for line in lines[:10]] == [True, False, *[True] * 8]
    assert lines[-1] == "dry run: nothing was started"
    assert sorted(tmp_path.rglob("*")) == before


def test_without_demonstrations_the_command_that_makes_them_is_named(tmp_path):
    with pytest.raises(ValueError) as caught:
        main([CONFIG, f"method.replay.demonstrations={tmp_path}"])
    assert "python -m libero_runtime.demonstrations --suite libero_spatial" in str(user_message(caught.value))
