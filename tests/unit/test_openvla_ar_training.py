"""Supervised training of the autoregressive layout: the next action of every frame, token by token."""

import torch

from openvla_oft.model import checkpoints
from rlinf.config.schema import ModelConfig
from rlinf.models import PolicySource, load_policy
from tests.unit.sft_runs import logged, run
from transformers_openvla_oft import ActionTokenMap, SmallSizes, TowerSizes
from transformers_openvla_oft.small import create_small_checkpoint


def test_training_lowers_the_loss_of_the_next_action(demos, tmp_path):
    settings = ["--steps", "30", "--batch-size", "32", "--lr", "1e-2", "--ema", "0", "--no-augment"]
    assert run(demos, tmp_path / "policy", "--actions-per-chunk", "1", *settings) == 0
    losses = logged(tmp_path / "policy", "train_loss")
    assert losses[0] > 5.0  # near log 256 = 5.5
    assert losses[-1] < losses[0] - 0.5
    policy = load_policy(
        ModelConfig(model_name="openvla", num_action_chunks=1, lora_rank=4),
        PolicySource(tmp_path / "policy", unnorm_key="libero_spatial", seed=0),
        base_dtype=torch.float32,
    )
    assert policy.chunk_shape == (1, 7)


def test_decoding_finds_an_action_that_was_learnt(tmp_path):
    """Two observations, two actions: after training, greedy decoding gives each one's tokens."""
    bounds = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
    sizes = SmallSizes(
        image_size=32, patch_size=16, towers=(TowerSizes(embed_dim=32, depth=1, num_heads=2),), hidden_size=32,
        num_layers=2, num_heads=2, intermediate_size=64, num_actions_chunk=1,
    )  # fmt: skip
    create_small_checkpoint(tmp_path, sizes=sizes, norm_stats={"libero_spatial": {"action": bounds}})
    model, processor = checkpoints.load_for_training(tmp_path)
    actions_BCA = torch.tensor([[[0.5, -0.3, 0.2, 0.0, 0.1, -0.9, 1.0]], [[-0.5, 0.3, 0.2, 0.7, 0.1, 0.4, -1.0]]])
    bins_BT = ActionTokenMap.from_config(model.config, "libero_spatial").encode_env_actions(actions_BCA)
    images = torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8)
    images[1] = 255
    batch = processor(images, ["open the drawer", "close it"])
    inputs = vars(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        logits_BTV = model(**inputs, bins_BT=bins_BT).logits_BTV
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), bins_BT.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(model(**inputs).bins_BT, bins_BT)
