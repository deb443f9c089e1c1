"""Outputs of the published code on tiny checkpoints, which tests compare with; OPENVLA_REFERENCE names their folder."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.published import REFERENCE
from transformers_openvla_oft import OpenVLAForActionPrediction, ValueHead

needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="set OPENVLA_REFERENCE to the reference fixtures")
CHECKPOINTS = {"fused": REFERENCE / "tiny_openvla_oft_fused", "single": REFERENCE / "tiny_openvla_oft_single"}
UNNORM_KEYS = {"fused": "libero_spatial", "single": "libero_goal"}
ATOL = 1e-4  # float32 round-off of two orders of summation; the logits are of size 10


def load_model(kind, **options):
    """A model with the value head beside its checkpoint."""
    model = OpenVLAForActionPrediction.from_pretrained(CHECKPOINTS[kind], dtype=torch.float32, **options)
    state = load_file(CHECKPOINTS[kind] / "value_head.safetensors")
    model.value_head = ValueHead(state["head_l1.weight"].shape[1], num_outputs=state["head_l3.weight"].shape[0])
    model.value_head.load_state_dict(state)
    return model.eval()


def inputs_of(arrays, case):
    """The case's forward arguments; the published arrays have one more axis, of length one, before the channels."""
    return {
        "input_ids_BL": torch.from_numpy(arrays[f"{case}/input_ids"]),
        "attention_mask_BL": torch.from_numpy(arrays[f"{case}/attention_mask"]),
        "pixel_values": torch.from_numpy(arrays[f"{case}/pixel_values"]).flatten(1, 2),
    }


def assert_close(actual, expected, *, atol=ATOL):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=atol)
