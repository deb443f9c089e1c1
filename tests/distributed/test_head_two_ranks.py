"""The output layer cut to the action bins gives the full layer's gradients on a sharded policy too."""

import pytest
import torch
import torch.distributed as dist

from openvla_oft.torch_utils.tensors import whole
from rlinf.engines.fsdp import shard
from rlinf.models.lora import trainable_parameters
from tests.distributed.ranks import run_ranks
from tests.small_policy import LANGUAGE, disturb, read_policy
from transformers_openvla_oft import checkpoint_blocks

DTYPE_TOLERANCES = {"fp32": (1e-5, 1e-6), "bf16": (2e-2, 2e-2)}


def compare(mesh, *, checkpoint, param_dtype):
    policy = disturb(read_policy(checkpoint), 0.3)
    model = policy.module.get_base_model()
    if param_dtype == "fp32":
        checkpoint_blocks(policy.module, policy="matmuls")
    shard(policy.module, policy.units(), mesh, param_dtype=param_dtype, reshard_after_forward=True)
    rank = dist.get_rank()
    images = torch.randint(0, 256, (2, 1, 32, 32, 3), generator=torch.Generator().manual_seed(rank)).to(torch.uint8)
    # Each rank's prompts have a length of their own.
    batch = policy.processor(images, ["open the drawer", (LANGUAGE, "turn on the stove")[rank]])

    def run():
        policy.module.zero_grad()
        logits_BTV = policy.decode(batch).logits_BTV
        logits_BTV.pow(2).mean().backward()
        gradients = {name: p.grad for name, p in trainable_parameters(policy.module).items()}
        return logits_BTV, {name: whole(gradient) for name, gradient in gradients.items() if gradient is not None}

    def from_the_full_layer(hidden_BTH):
        rows = slice(model.config.action_token_begin, model.config.action_token_end)
        return model.language_model.lm_head(hidden_BTH)[..., rows].float()

    logits_BTV, gradients = run()
    model.action_logits = from_the_full_layer
    expected_BTV, expected = run()
    rtol, atol = DTYPE_TOLERANCES[param_dtype]
    torch.testing.assert_close(logits_BTV, expected_BTV, rtol=rtol, atol=atol)
    assert any(".lm_head.lora_B" in name for name in gradients)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    torch.testing.assert_close(gradients, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("param_dtype", ["fp32", "bf16"])
def test_gradients_of_the_cut_output_layer(small_policy, param_dtype):
    run_ranks(compare, 2, checkpoint=small_policy, param_dtype=param_dtype)
