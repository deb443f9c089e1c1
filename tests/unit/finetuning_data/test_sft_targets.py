"""Chunk targets, statistics, token encoding, split and sampling, by hand."""

import numpy as np
import pytest
import torch

from openvla_oft.data import batches
from openvla_oft.data.dataset import DemonstrationSet, chunk_actions, split_demonstrations
from openvla_oft.data.statistics import action_statistics
from transformers_openvla_oft.model.action_tokens import ActionTokenMap


def demonstration_set(lengths, tasks, num_tasks=2):
    num_frames = sum(lengths)
    return DemonstrationSet(
        images_FNHWC=np.zeros((num_frames, 1, 2, 2, 3), np.uint8),
        actions_FA=np.zeros((num_frames, 7), np.float32),
        demo_lengths_D=np.array(lengths),
        demo_tasks_D=np.array(tasks),
        languages=tuple("abcdef"[:num_tasks]),
        cameras=("agentview",),
    )


def token_map(actions, bounds="symmetric"):
    action = action_statistics(actions, num_trajectories=1, bounds=bounds)["action"]
    return ActionTokenMap(
        action_token_begin=768,
        num_bins=256,
        num_actions_chunk=1,
        low_A=tuple(action["q01"]),
        high_A=tuple(action["q99"]),
        mask_A=tuple(action["mask"]),
    )


def test_chunks_stop_at_the_end_of_their_demonstration():
    actions = np.zeros((5, 7), np.float32)
    actions[:, 0] = [1, 2, 3, 4, 5]
    actions[:, 6] = [-1, -1, 1, -1, 1]
    chunks, inside = chunk_actions(actions, np.array([3, 2]), num_steps=3)
    assert chunks[..., 0].tolist() == [[1, 2, 3], [2, 3, 0], [3, 0, 0], [4, 5, 0], [5, 0, 0]]
    assert chunks[..., 6].tolist() == [[-1, -1, 1], [-1, 1, 1], [1, 1, 1], [-1, 1, 1], [1, 1, 1]]
    assert inside.tolist() == [
        [True, True, True],
        [True, True, False],
        [True, False, False],
        [True, True, False],
        [True, False, False],
    ]


def test_statistics_by_hand():
    actions = np.zeros((101, 7), np.float32)
    actions[:, 0] = np.arange(101) / 100  # 0 ... 1: the 1 % quantile is 0.01
    actions[:, 1] = -actions[:, 0] / 2
    actions[50, 2] = 0.4  # moves in one frame only
    actions[:, 6] = np.where(np.arange(101) < 50, -1, 1)
    action = action_statistics(actions, num_trajectories=3)["action"]
    assert action["q99"] == pytest.approx([0.99, 0.495, 0.4, 0.05, 0.05, 0.05, 1])
    assert action["q01"] == pytest.approx([-0.99, -0.495, -0.4, -0.05, -0.05, -0.05, 0])
    assert action["quantile_01"][:3] == pytest.approx([0.01, -0.495, 0])
    assert action["quantile_99"][:3] == pytest.approx([0.99, -0.005, 0])
    assert action["mean"][0] == pytest.approx(0.5)
    assert action["mean"][6] == pytest.approx(50 / 101)  # OpenVLA's gripper: 1 is open
    assert (action["min"][1], action["max"][6]) == pytest.approx((-0.5, 1))
    assert action["std"][0] == pytest.approx(np.sqrt((101**2 - 1) / 12) / 100)
    assert action["mask"] == [True] * 6 + [False]


def test_quantile_bounds_refuse_a_dimension_that_never_moves():
    actions = np.random.default_rng(0).uniform(-1, 1, (100, 7)).astype(np.float32)
    action = action_statistics(actions, num_trajectories=1, bounds="quantile")["action"]
    assert action["q01"][:6] == pytest.approx(np.quantile(actions[:, :6], 0.01, axis=0), abs=1e-6)
    actions[:, 4] = 0
    with pytest.raises(ValueError, match=r"dimensions \[4\]"):
        action_statistics(actions, num_trajectories=1, bounds="quantile")
    assert action_statistics(actions, num_trajectories=1, bounds="unit")["action"]["q99"][:6] == [1.0] * 6


def test_zero_and_gripper_survive_encoding_and_motion_within_half_a_bin():
    actions = np.random.default_rng(0).uniform(-1, 1, (500, 7)).astype(np.float32)
    actions[:, 3] = 0
    actions[:100] = 0
    actions[:, 6] = np.where(np.arange(500) % 2, -1, 1)
    tokens = token_map(actions)
    decoded = tokens.env_actions(tokens.encode_env_actions(torch.from_numpy(actions)[:, None]))[:, 0].numpy()
    assert np.abs(decoded[:100, :6]).max() < 1e-7
    assert (decoded[:, 6] == actions[:, 6]).all()
    bound = np.array(tokens.high_A[:6])
    clipped = np.clip(actions[:, :6], -bound, bound)
    assert (np.abs(decoded[:, :6] - clipped) <= bound / 255 + 1e-6).all()


def test_split_holds_out_whole_demonstrations_of_every_task():
    demos = demonstration_set([3, 4, 5, 6, 7], [0, 0, 0, 1, 2], num_tasks=3)
    split = split_demonstrations(demos, validation_fraction=0.02, seed=1)
    assert sorted([*split.train_frames, *split.validation_frames]) == list(range(25))
    held_out = set(split.validation_frames)
    spans = [set(range(3)), set(range(3, 7)), set(range(7, 12)), set(range(12, 18)), set(range(18, 25))]
    assert [span & held_out in (span, set()) for span in spans] == [True] * 5
    assert sum(span <= held_out for span in spans[:3]) == 1
    assert not held_out & (spans[3] | spans[4])  # a single demonstration of a task is for training
    again = split_demonstrations(demos, validation_fraction=0.02, seed=1)
    assert np.array_equal(split.train_frames, again.train_frames)
    assert len(split_demonstrations(demos, validation_fraction=0, seed=1).validation_frames) == 0


def test_batches_show_every_frame_once_per_pass():
    frames = torch.arange(100, 110)
    stream = batches.shuffled_batches(frames, batch_size=4, generator=torch.Generator().manual_seed(0))
    seen = torch.cat([next(stream) for _ in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == frames.tolist()
    assert seen[:10].tolist() != seen[10:].tolist()
