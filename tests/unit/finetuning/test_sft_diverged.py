"""Trainings whose numbers are no longer finite end with a message, and leave nothing that is of no use."""

import pytest
import torch

from openvla_oft.model import checkpoints
from openvla_oft.train import optimisation, resume
from tests.unit.finetuning.sft_runs import run

HUGE = ["--steps", "1", "--warmup-steps", "0", "--lr", "1e30"]


def at_step(monkeypatch, step, change):
    """Do something to the trained weights at the end of a step."""
    update = optimisation.WeightAverage.update

    def changed(self, number):
        update(self, number)
        if number == step:
            with torch.no_grad():
                change(self.parameters)

    monkeypatch.setattr(optimisation.WeightAverage, "update", changed)


@pytest.mark.parametrize("extra", [["--ema", "0"], ["--lora-rank", "2", "--validation-fraction", "0"]])
def test_weights_that_are_of_no_use_are_not_written(demos, base, tmp_path, capsys, extra):
    assert run(demos, tmp_path / "policy", "--init", str(base), *HUGE, *extra) == 2
    error = capsys.readouterr().err
    assert "not finite" in error
    assert "lower --lr" in error
    assert list(tmp_path.iterdir()) == []


def test_a_state_with_such_weights_is_never_saved(demos, tmp_path, monkeypatch, capsys):
    settings = ["--steps", "9", "--save-every", "3", "--log-every", "100", "--validate-every", "100"]
    at_step(monkeypatch, 5, lambda parameters: parameters[0].view(-1)[:1].fill_(float("nan")))
    assert run(demos, tmp_path / "policy", *settings, "--log-every", "100") == 2
    assert "weights are not finite after step 6" in capsys.readouterr().err
    unfinished = tmp_path / "policy.unfinished"
    assert resume.latest_state(unfinished).name == "step_3", "the last good one is kept"
    monkeypatch.undo()
    assert run(demos, tmp_path / "policy", *settings, "--log-every", "100") == 0


def test_a_gradient_between_two_log_lines_is_noticed(demos, tmp_path, monkeypatch, capsys):
    clip = torch.nn.utils.clip_grad_norm_
    norms = []

    def broken_once(parameters, largest):
        norms.append(clip(parameters, largest))
        return norms[-1] * float("inf") if len(norms) == 2 else norms[-1]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", broken_once)
    assert run(demos, tmp_path / "policy", "--steps", "4", "--log-every", "4") == 2
    assert len(norms) == 4, "no step waits for the device"
    assert "the gradient is inf at step 4 or just before" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_which_weights_are_meant(tmp_path):
    tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}
    with pytest.raises(ValueError, match=r"1 of 2 weights are not finite and are not written, the first is b"):
        checkpoints.save_policy(tmp_path, model=None, tensors=tensors, processor=None, save_dtype="float32")
