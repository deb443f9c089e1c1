"""One rank that compares the cut output layer with the whole one; started by ``test_head_two_ranks.py``."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from rlinf.engines.distributed import join_group
from rlinf.engines.fsdp import shard
from rlinf.models.lora import trainable_parameters
from rlinf.models.shards import whole
from tests.distributed.ranks import finish_rank
from tests.small_policy import LANGUAGE, read_policy
from transformers_openvla_oft import checkpoint_blocks

DTYPE_TOLERANCES = {"fp32": (1e-5, 1e-6), "bf16": (2e-2, 2e-2)}


def main(rank: int, world_size: int, port: int, checkpoint: Path, param_dtype: str) -> None:
    torch.set_num_threads(1)
    mesh = join_group(rank=rank, world_size=world_size, init_method=f"tcp://127.0.0.1:{port}", own_address="127.0.0.1")
    policy = read_policy(checkpoint)
    model = policy.module.get_base_model()
    torch.manual_seed(0)
    for name, parameter in policy.module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    if param_dtype == "fp32":
        checkpoint_blocks(policy.module, policy="matmuls")
    shard(policy.module, policy.units(), mesh, param_dtype=param_dtype, reshard_after_forward=True)
    images = torch.randint(0, 256, (2, 1, 32, 32, 3), generator=torch.Generator().manual_seed(rank)).to(torch.uint8)
    # Each rank's prompts have a length of their own.
    batch = policy.processor(images, ["open the drawer", (LANGUAGE, "turn on the stove")[rank]])

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        policy.module.zero_grad()
        logits_BTV = policy.decode(batch).logits_BTV
        logits_BTV.pow(2).mean().backward()
        gradients = {name: p.grad for name, p in trainable_parameters(policy.module).items()}
        return logits_BTV, {name: whole(gradient) for name, gradient in gradients.items() if gradient is not None}

    def from_the_whole_layer(hidden_BTH: Tensor) -> Tensor:
        rows = slice(model.config.action_token_begin, model.config.action_token_end)
        return model.language_model.lm_head(hidden_BTH)[..., rows].float()

    logits_BTV, gradients = run()
    model.action_logits = from_the_whole_layer
    expected_BTV, expected = run()
    rtol, atol = DTYPE_TOLERANCES[param_dtype]
    torch.testing.assert_close(logits_BTV, expected_BTV, rtol=rtol, atol=atol)
    assert gradients.keys() == expected.keys()
    assert any(".lm_head.lora_B" in name for name in gradients)
    for name, gradient in expected.items():
        assert torch.isfinite(gradients[name]).all()
        torch.testing.assert_close(
            gradients[name], gradient, rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
        )
    finish_rank()


if __name__ == "__main__":
    rank, world_size, port = map(int, sys.argv[1:4])
    main(rank, world_size, port, Path(sys.argv[4]), sys.argv[5])
