"""Interrupted trainings go on with the same command, to the bit; accumulated batches are whole batches."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from openvla_oft.train import optimisation
from openvla_oft.train.sampler import DataOrder, derived_seed
from tests.full_disk import largest_file
from tests.unit.finetuning.sft_demos import write_suite
from tests.unit.finetuning.sft_runs import assert_same_weights, command, logged, run, stop_at

SETTINGS = ["--steps", "7", "--save-dtype", "float32", "--ema", "0.9", "--save-every", "2", "--validate-every", "3"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def uninterrupted(demos, one_thread, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "policy"
    assert run(demos, folder, *SETTINGS) == 0
    return folder


def test_an_interrupted_training_ends_with_the_same_bits(demos, uninterrupted, tmp_path, monkeypatch, capsys):
    output = tmp_path / "policy"
    with monkeypatch.context() as patch:
        stop_at(patch, 5, KeyboardInterrupt)
        assert run(demos, output, *SETTINGS) == 130
    unfinished = tmp_path / "policy.unfinished"
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"interrupted: the same command goes on from step 4, which is stored in {unfinished}"
    assert not output.exists()
    assert [path.name for path in (unfinished / "state").iterdir()] == ["step_4"]
    assert run(demos, output, *SETTINGS) == 0
    assert not unfinished.exists()
    assert not (output / "state").exists()
    assert_same_weights(uninterrupted, output)
    for name in ("train_loss", "grad_norm", "learning_rate", "validation", "step"):
        assert logged(output, name) == logged(uninterrupted, name)
    assert json.loads((output / "training.json").read_text())["resumed_from_step"] == 4


def test_other_settings_are_refused_and_shown(demos, tmp_path, monkeypatch, capsys):
    output = tmp_path / "policy"
    with monkeypatch.context() as patch:
        stop_at(patch, 3, KeyboardInterrupt)
        assert run(demos, output, *SETTINGS) == 130
    assert run(demos, output, *SETTINGS, "--lr", "0.5", "--seed", "3") == 2
    error = capsys.readouterr().err
    assert "--lr: 0.001 there, 0.5 now" in error
    assert "--seed: 0 there, 3 now" in error
    other = write_suite(tmp_path / "other", num_demos=2, num_steps=10)
    assert run(other, output, *SETTINGS) == 2
    assert "the demonstrations: '6 of 60 frames" in capsys.readouterr().err
    assert (tmp_path / "policy.unfinished" / "state" / "step_2").is_dir(), "a refusal leaves it as it was"


def test_ctrl_c_before_the_first_state_leaves_nothing(demos, tmp_path, monkeypatch, capsys):
    stop_at(monkeypatch, 0, KeyboardInterrupt)
    assert run(demos, tmp_path / "policy", *SETTINGS) == 130
    assert capsys.readouterr().err.endswith("interrupted: nothing was stored yet; the same command starts again\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [50_000, 600_000], ids=["weights", "state"])
def test_a_full_disk_is_one_message_and_the_same_command_goes_on(demos, uninterrupted, tmp_path, capsys, size):
    with largest_file(size):
        assert run(demos, tmp_path / "policy", *SETTINGS) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {tmp_path / 'policy'}: ")
    assert "run the same command again" in said
    assert run(demos, tmp_path / "policy", *SETTINGS) == 0
    assert_same_weights(uninterrupted, tmp_path / "policy")


def test_the_signal_ends_the_process_with_one_line(demos, tmp_path):
    settings = ["--steps", "100000", "--save-every", "5", "--log-every", "1000000"]
    words = [sys.executable, "-m", "openvla_oft.finetune", *command(demos, tmp_path / "policy", *settings)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("policy.unfinished/state/step_*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: the same command goes on from step" in error
    assert "Traceback" not in error


def test_tensorboard_has_what_the_log_has(uninterrupted):
    events = EventAccumulator(str(uninterrupted / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "validation/cross_entropy",
        "validation/motion_l1",
    }
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose([value for _, value in losses], logged(uninterrupted, "train_loss"), rtol=1e-6)


def test_steps_after_the_last_log_line_are_logged_at_the_end(demos, uninterrupted, tmp_path):
    assert run(demos, tmp_path / "policy", *SETTINGS, "--log-every", "3") == 0
    losses = logged(uninterrupted, "train_loss")
    means = [np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]]
    np.testing.assert_allclose(logged(tmp_path / "policy", "train_loss"), means, rtol=1e-5)


def test_accumulated_micro_batches_are_the_whole_batch(demos, uninterrupted, tmp_path):
    assert run(demos, tmp_path / "policy", *SETTINGS, "--micro-batch-size", "2") == 0
    np.testing.assert_allclose(
        logged(tmp_path / "policy", "train_loss"), logged(uninterrupted, "train_loss"), rtol=1e-4
    )
    np.testing.assert_allclose(logged(tmp_path / "policy", "grad_norm"), logged(uninterrupted, "grad_norm"), rtol=1e-3)


def test_images_read_from_a_file_change_nothing_nor_does_what_a_killed_process_left(demos, uninterrupted, tmp_path):
    left = tmp_path / "policy.unfinished"
    (left / "frames").mkdir(parents=True)
    (left / "frames" / "pack.json").write_text("{}")
    (left / "training_log.jsonl").write_text('{"step": 0, "train_loss": 1.0}\n')
    assert run(demos, tmp_path / "policy", *SETTINGS, "--frames", "file") == 0
    assert logged(tmp_path / "policy", "train_loss") == logged(uninterrupted, "train_loss")
    assert_same_weights(uninterrupted, tmp_path / "policy")
    assert not (tmp_path / "policy" / "frames").exists()


def test_a_second_process_is_told_to_wait(demos, tmp_path, monkeypatch, capsys):
    update = optimisation.WeightAverage.update
    codes = []

    def meanwhile(self, number):
        if number == 0 and not codes:
            codes.append(run(demos, tmp_path / "policy", *SETTINGS))
        update(self, number)

    monkeypatch.setattr(optimisation.WeightAverage, "update", meanwhile)
    assert run(demos, tmp_path / "policy", *SETTINGS) == 0
    assert codes == [2]
    assert "another process is training in" in capsys.readouterr().err


def test_order_shows_every_frame_once_per_pass_whatever_came_before():
    frames = np.arange(100, 110)
    order = DataOrder(frames, batch_size=4, seed=1)
    seen = torch.cat([order.batch(step) for step in range(5)]).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == frames.tolist()
    assert seen[:10] != seen[10:]
    assert DataOrder(frames, batch_size=4, seed=1).batch(3).tolist() == seen[12:16]
    assert DataOrder(frames, batch_size=20, seed=1).batch(0).tolist() == seen
    assert DataOrder(frames, batch_size=4, seed=2).batch(0).tolist() != seen[:4]
    assert derived_seed(0, "order", 1) != derived_seed(0, "augment", 1) != derived_seed(1, "augment", 1)
