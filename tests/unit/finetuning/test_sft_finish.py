"""A finished training gets its name, with nothing of what only resuming needs."""

import json

from tests.unit.finetuning.sft_runs import run


def test_a_finished_training_replaces_what_has_its_name(demos, tmp_path, capsys):
    output = tmp_path / "policy"
    output.mkdir()
    (output / "old.txt").write_text("old")
    settings = ["--steps", "3", "--save-every", "2", "--frames", "file"]
    assert run(demos, output, *settings) == 2
    assert "exists; give another folder, or --overwrite" in capsys.readouterr().err
    assert (output / "old.txt").is_file()
    assert run(demos, output, *settings, "--overwrite") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    names = {path.name for path in output.iterdir()}
    assert names >= {"model.safetensors", "training.json", "training_log.jsonl"}
    assert names.isdisjoint({"old.txt", "state", "frames", "start", "settings.json", ".lock"})
    assert json.loads((output / "training.json").read_text())["steps"] == 3
