"""Augmentation, losses, schedule and weight averaging of the supervised trainer, by hand."""

import math

import pytest
import torch
from torch import nn

from openvla_oft.data import augment
from openvla_oft.data.augment import AugmentConfig
from openvla_oft.train import objectives
from openvla_oft.train.optimisation import WeightAverage, learning_rate, parameter_groups


def draw(config, num_samples=3, image_size=8):
    generator = torch.Generator().manual_seed(0)
    return config.draw(num_samples=num_samples, num_cameras=2, image_size=image_size, generator=generator)


def random_frames(num_frames=5, size=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (num_frames, 2, size, size, 3), dtype=torch.uint8, generator=generator)


def test_shift_repeats_the_edges():
    frames = random_frames()
    shift = torch.tensor([[[2, -1], [0, 0]]])
    shifted = augment.fetch(frames, torch.tensor([4]), shift)
    assert shifted.dtype == torch.uint8
    assert torch.equal(shifted[0, 1], frames[4, 1])
    for row in range(8):
        for column in range(8):
            assert torch.equal(shifted[0, 0, row, column], frames[4, 0, min(row + 2, 7), max(column - 1, 0)])


def test_switched_off_augmentation_changes_nothing():
    frames = random_frames()
    numbers = draw(AugmentConfig.off(), num_samples=5)
    assert torch.equal(augment.fetch(frames, torch.arange(5), numbers.shift_BN2), frames)
    torch.testing.assert_close(numbers.apply(frames), augment.plain(frames), atol=1e-6, rtol=0)


def test_jitter_by_hand():
    frames = torch.full((1, 1, 2, 2, 3), 100, dtype=torch.uint8)
    frames[..., 0, 0, :] = 200
    numbers = augment.AugmentDraw(
        shift_BN2=torch.zeros(1, 1, 2, dtype=torch.int64),
        gain_BNC=torch.tensor([[[1.0, 1.0, 0.5]]]),
        contrast_BN=torch.tensor([[0.5]]),
        noise_std_BN=torch.zeros(1, 1),
        noise_BNHWC=None,
    )
    bright, dark = torch.tensor([200, 200, 100]) / 255, torch.tensor([100, 100, 50]) / 255
    mean = (bright.sum() + 3 * dark.sum()) / 12
    images = numbers.apply(frames)
    torch.testing.assert_close(images[0, 0, 0, 0], mean + (bright - mean) * 0.5)
    torch.testing.assert_close(images[0, 0, 1, 1], mean + (dark - mean) * 0.5)


def test_draws_stay_in_their_ranges_and_differ_between_samples():
    config = AugmentConfig(shift=2, brightness=0.2, contrast=0.3, colour=0.1, noise=0.05)
    numbers = draw(config, num_samples=500)
    assert numbers.shift_BN2.unique().tolist() == [-2, -1, 0, 1, 2]
    assert 1.28 < numbers.gain_BNC.max() <= 1.2 * 1.1
    assert 0.8 * 0.9 <= numbers.gain_BNC.min() < 0.75
    assert 0.7 <= numbers.contrast_BN.min() < 0.72
    assert 0.048 < numbers.noise_std_BN.max() <= 0.05
    images = numbers.apply(random_frames(500))
    assert images.min() >= 0
    assert images.max() <= 1


def test_soft_labels_by_hand():
    table = objectives.soft_label_table(4, sigma=1.0)
    neighbour, second = math.exp(-0.5), math.exp(-2)
    total = neighbour + 1 + neighbour + second
    expected = torch.tensor([neighbour, 1, neighbour, second]) / total
    torch.testing.assert_close(table[1], expected)
    torch.testing.assert_close(table.sum(dim=1), torch.ones(4))
    assert objectives.soft_label_table(4, sigma=0) is None


def test_cross_entropy_by_hand():
    logits = torch.log(torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]]))
    targets = torch.tensor([[0, 1]])
    hard = objectives.token_losses(logits, targets, table_VV=None)
    assert hard.tolist() == [pytest.approx([-math.log(0.7), -math.log(0.1)])]
    table = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    soft = objectives.token_losses(logits, targets, table_VV=table)
    assert soft.tolist() == [pytest.approx([-(math.log(0.7) + math.log(0.2)) / 2, -math.log(0.1)])]


def test_learning_rate_warms_up_and_ends_at_its_final_fraction():
    def rate(step, progress):
        return learning_rate(step=step, progress=progress, base=2.0, num_warmup_steps=10, final_fraction=0.1)

    assert rate(0, 0) == pytest.approx(0.2)
    assert rate(4, 0) == pytest.approx(1.0)
    assert rate(50, 0.5) == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert rate(100, 1.0) == pytest.approx(0.2)
    assert rate(100, 1.5) == pytest.approx(0.2)


def test_only_matrices_decay():
    model = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "linear": nn.Linear(2, 4), "norm": nn.LayerNorm(4)})
    decayed, others = parameter_groups(model, weight_decay=0.1)
    assert [p.shape for p in decayed["params"]] == [(4, 2)]
    assert decayed["weight_decay"] == 0.1
    assert sorted(p.numel() for p in others["params"]) == [4, 4, 4, 6]
    assert others["weight_decay"] == 0


def test_weight_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average = WeightAverage(model, decay=0.9)
        model.weight.fill_(1.0)
        average.update(step=0)  # decay is still (1 + 0) / (10 + 0)
        assert average.averages[0].item() == pytest.approx(0.9)
        model.weight.fill_(2.0)
        average.update(step=1000)
    assert average.averages[0].item() == pytest.approx(0.9 * 0.9 + 0.1 * 2)
    with average.applied():
        assert model.weight.item() == pytest.approx(1.01)
    assert model.weight.item() == 2.0
    assert average.averages[0].item() == pytest.approx(1.01)
    last = WeightAverage(model, decay=0)
    last.update(step=0)
    with last.applied():
        assert model.weight.item() == 2.0
