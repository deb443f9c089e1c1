"""Finished trainings get their name whenever the process is stopped: nothing is lost, and nothing is trained again."""

import itertools
import json
import shutil
from pathlib import Path

from openvla_oft import finetune
from tests.unit.sft_runs import run

RMTREE = shutil.rmtree
SETTINGS = ["--steps", "3", "--save-every", "2", "--frames", "file"]


class Stopped(BaseException):
    """The process ends here."""


class Disk:
    """Counts what ``finish`` changes on the disk and stops before the change with a given number, or within it where
    that is the removal of a folder."""

    def __init__(self, monkeypatch):
        self.stop_before = None
        self.changes = itertools.count()
        for name in ("rename", "replace", "unlink"):
            monkeypatch.setattr(Path, name, self.counted(getattr(Path, name)))
        monkeypatch.setattr(shutil, "rmtree", self.rmtree)

    def counted(self, change):
        def changed(*args, **kwargs):
            if next(self.changes) == self.stop_before:
                raise Stopped
            return change(*args, **kwargs)

        return changed

    def rmtree(self, folder, ignore_errors=False):
        for path in [path for path in Path(folder).rglob("*") if path.is_file()][:1]:
            path.unlink()
        RMTREE(folder, ignore_errors=True)


def stopped_at(demos, output, monkeypatch, number):
    """Train and stop before that change of ``finish``; False where it has no so many."""
    with monkeypatch.context() as patch:
        finish = finetune.resume.finish
        disk = Disk(patch)

        def watched(*args, **kwargs):
            disk.changes = itertools.count()
            disk.stop_before = number
            finish(*args, **kwargs)
            disk.stop_before = None

        patch.setattr(finetune.resume, "finish", watched)
        try:
            return run(demos, output, *SETTINGS, "--overwrite") != 0
        except Stopped:
            return True


def test_stopping_anywhere_loses_nothing_and_trains_nothing_again(demos, tmp_path, monkeypatch):
    trained = []
    train = finetune.train

    def counting(*args, **kwargs):
        trained.append(1)
        return train(*args, **kwargs)

    number = -1
    while True:
        number += 1
        output = tmp_path / str(number) / "policy"
        output.mkdir(parents=True)
        (output / "old.txt").write_text("old")
        if not stopped_at(demos, output, monkeypatch, number):
            break
        places = [output, output.with_name("policy.unfinished"), output.with_name("policy.replaced")]
        assert any((place / "model.safetensors").is_file() for place in places)
        with monkeypatch.context() as patch:
            patch.setattr(finetune, "train", counting)
            assert run(demos, output, *SETTINGS, "--overwrite") == 0
        # Before the first change the policy is not yet marked as finished: the rest of it is trained.
        assert bool(trained) == (number == 0), number
        trained.clear()
        assert [path.name for path in output.parent.iterdir()] == ["policy"]
        names = {path.name for path in output.iterdir()}
        assert names >= {"model.safetensors", "training.json", "training_log.jsonl"}
        assert names.isdisjoint({"old.txt", "state", "frames", "start", "settings.json", ".lock", ".finished.json"})
        assert json.loads((output / "training.json").read_text())["steps"] == 3
    assert number > 5


def test_other_settings_do_not_get_a_policy_that_was_not_theirs(demos, tmp_path, monkeypatch, capsys):
    output = tmp_path / "policy"
    assert stopped_at(demos, output, monkeypatch, 2)
    assert run(demos, output, *SETTINGS, "--lr", "0.5") == 2
    assert "holds a finished training with other settings:\n  --lr: 0.001 there, 0.5 now" in capsys.readouterr().err
    assert run(demos, output, *SETTINGS) == 0
