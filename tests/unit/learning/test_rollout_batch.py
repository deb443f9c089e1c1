"""Collections that are joined without copying their images."""

from dataclasses import replace

import numpy as np
import pytest

from rlinf.data import JoinedFrames, RolloutBatch
from tests.small_policy import make_rollouts


def _read_only(rollouts: RolloutBatch) -> RolloutBatch:
    """As it comes out of Ray's object store."""
    rollouts.frames_SNHWC.flags.writeable = False
    return rollouts


@pytest.fixture
def parts():
    return [_read_only(replace(make_rollouts(seed=seed), languages=(f"task {seed}",))) for seed in range(3)]


def test_joining_copies_no_images(parts):
    whole = RolloutBatch.cat([parts[0], RolloutBatch.cat(parts[1:])])
    assert whole.frames_SNHWC.shape == (3 * parts[0].num_samples, 1, 32, 32, 3)
    for part, array in zip(parts, whole.frames_SNHWC.parts, strict=True):
        assert array is part.frames_SNHWC


@pytest.mark.parametrize("positions", [[], [70], [3, 71, 24, 23, 48, 3, 0]])
def test_selecting_gathers_images_across_arrays(parts, positions):
    joined, positions = RolloutBatch.cat(parts), np.array(positions, np.int64)
    copied = np.concatenate([part.frames_SNHWC for part in parts])
    np.testing.assert_array_equal(np.asarray(joined.frames_SNHWC), copied)
    chosen = joined.select(positions)
    np.testing.assert_array_equal(chosen.frames_SNHWC, copied[positions])
    assert chosen.frames_SNHWC.flags.writeable, "torch warns about memory that it may not write to"
    assert [chosen.languages[index] for index in chosen.language_S] == [f"task {index // 24}" for index in positions]


def test_images_of_other_sizes_are_not_joined(parts):
    small = make_rollouts()
    small = replace(small, frames_SNHWC=small.frames_SNHWC[:, :, ::2, ::2])
    with pytest.raises(
        ValueError, match=r"parts\[1\] must be uint8 of shape \(any, 1, 32, 32, 3\), got uint8 \(24, 1, 16"
    ):
        RolloutBatch.cat([parts[0], small])
    with pytest.raises(
        ValueError, match=r"frames_SNHWC must be uint8 of shape \(24, any, any, any, 3\), got uint8 \(48"
    ):
        replace(parts[0], frames_SNHWC=JoinedFrames((parts[0].frames_SNHWC, parts[1].frames_SNHWC)))
