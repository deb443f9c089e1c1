"""Batches without a row are refused with what was expected and given."""

import numpy as np
import pytest
import torch

from rlinf.config.schema import AlgorithmConfig
from rlinf.data import Observation
from rlinf.engines.experience import prepare_experience
from tests.small_policy import make_rollouts, read_policy, write_policy
from transformers_openvla_oft import OpenVLAForActionPrediction, PrismaticProcessor


@pytest.fixture(scope="module", params=[8, 1], ids=["parallel", "autoregressive"])
def folder(request, tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy") / "small", num_actions=request.param)


@pytest.mark.parametrize("rows", [slice(0), (slice(None), slice(0))], ids=["no rows", "no slots"])
@pytest.mark.parametrize("score", [False, True])
def test_the_model_refuses_them(folder, rows, score):
    model = OpenVLAForActionPrediction.from_pretrained(folder)
    batch = PrismaticProcessor.from_pretrained(folder)(torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8), ["open it"] * 2)
    ids_BL, mask_BL = batch.input_ids_BL[rows], batch.attention_mask_BL[rows]
    bins_BT = torch.zeros(len(ids_BL), model.config.num_action_tokens, dtype=torch.long) if score else None
    with pytest.raises(
        ValueError, match=r"at least one row and one prompt slot, given input_ids_BL of shape \(\d+, \d+\)"
    ):
        model(
            input_ids_BL=ids_BL,
            attention_mask_BL=mask_BL,
            pixel_values=batch.pixel_values[: len(ids_BL)],
            bins_BT=bins_BT,
        )


def test_processor_and_policy_refuse_them(folder):
    expected = r"at least one observation, given images_BNHWC of shape \(0, 1, 32, 32, 3\)"
    with pytest.raises(ValueError, match=expected):
        PrismaticProcessor.from_pretrained(folder)(torch.zeros(0, 1, 32, 32, 3, dtype=torch.uint8), [])
    policy = read_policy(folder)
    nothing = Observation(np.zeros((0, 1, 64, 64, 3), np.uint8), np.zeros((0, 8), np.float32), ())
    with pytest.raises(ValueError, match=expected):
        policy.act(policy.prepare(nothing), temperature=0.0, uniforms_BCA=np.zeros((0, *policy.chunk_shape)))


@pytest.mark.parametrize("algorithm", [AlgorithmConfig(), AlgorithmConfig(adv_type="gae", loss_type="ppo")])
def test_learning_from_no_samples_is_refused(algorithm):
    rollouts = make_rollouts(critic=True).select(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="must have at least one sample, given none of 8 episodes"):
        prepare_experience(rollouts, algorithm)
