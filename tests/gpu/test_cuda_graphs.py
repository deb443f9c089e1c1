"""Acting through CUDA graphs equals acting without, whatever changes between two calls; nothing waits for the GPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlinf.engines.fsdp import load_trainable
from rlinf.models import Policy, PolicyInputs, PolicyOutput, PolicySource, load_policy
from rlinf.models.lora import adapter_off, trainable_parameters
from rlinf.models.vla import VLAPolicy
from tests.small_policy import LANGUAGE, model_config, write_policy
from transformers_openvla_oft.adapters import scale_adapter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny")


def load(checkpoint: Path, *, cuda_graphs: bool, compiled: bool = False) -> Policy:
    source = PolicySource(checkpoint, unnorm_key="libero_spatial", seed=3, critic=True, cuda_graphs=cuda_graphs)
    config = replace(model_config(checkpoint), compile_blocks=compiled)
    policy = load_policy(config, source, base_dtype=torch.float32)
    policy.to(torch.device("cuda"))
    return policy


def inputs(num_rows: int, seed: int) -> PolicyInputs:
    frames = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (num_rows, 1, 32, 32, 3), np.uint8)).cuda()
    return PolicyInputs(frames, tuple(LANGUAGE if row % 2 else "open the drawer" for row in range(num_rows)))


def of_one_length(num_rows: int, seed: int) -> PolicyInputs:
    return replace(inputs(num_rows, seed), languages=(LANGUAGE,) * num_rows)


def act(policy: Policy, batch: PolicyInputs) -> PolicyOutput:
    uniforms = np.random.default_rng(7).random((len(batch), *policy.chunk_shape))
    return policy.act(batch, temperature=1.0, uniforms_BCA=uniforms)


def assert_equal(graphed: PolicyOutput, plain: PolicyOutput) -> None:
    assert torch.equal(graphed.bins_BCA, plain.bins_BCA)
    torch.testing.assert_close(graphed.logprobs_BCA, plain.logprobs_BCA, atol=1e-4, rtol=0)
    assert graphed.values_B is not None
    assert plain.values_B is not None
    torch.testing.assert_close(graphed.values_B, plain.values_B, atol=1e-4, rtol=0)


def test_graphs_follow_batches_weights_and_scales(checkpoint: Path) -> None:
    graphed, plain = load(checkpoint, cuda_graphs=True), load(checkpoint, cuda_graphs=False)
    for seed, num_rows in enumerate((3, 8, 1, 5, 4, 3)):  # padded ones, and the same sizes again
        batch = inputs(num_rows, seed)
        assert_equal(act(graphed, batch), act(plain, batch))
    rng = np.random.default_rng(0)
    shapes = {name: tensor.shape for name, tensor in trainable_parameters(plain.module).items()}
    weights = {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    before = act(graphed, inputs(4, 1))
    for policy in (graphed, plain):
        load_trainable(policy.module, weights)
    batch = inputs(4, 1)
    after = act(graphed, batch)
    assert not torch.allclose(after.logprobs_BCA, before.logprobs_BCA, atol=1e-3), "the new weights must act"
    assert_equal(after, act(plain, batch))
    for policy in (graphed, plain):
        scale_adapter(policy.module, 0.5)
    assert_equal(act(graphed, batch), act(plain, batch))
    with adapter_off(graphed.module), adapter_off(plain.module):
        assert_equal(act(graphed, batch), act(plain, batch))


def test_results_stay_when_the_graph_runs_again(checkpoint: Path) -> None:
    policy = load(checkpoint, cuda_graphs=True)
    first = act(policy, inputs(4, 1))
    kept = first.logprobs_BCA.clone()
    act(policy, inputs(4, 2))
    assert torch.equal(first.logprobs_BCA, kept)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_graphs_with_and_without_pads(checkpoint: Path, *, compiled: bool) -> None:
    """Recorded without pads, attention has no mask; the same batch size with pads must not run that recording."""
    torch._dynamo.reset()
    graphed, plain = load(checkpoint, cuda_graphs=True, compiled=compiled), load(checkpoint, cuda_graphs=False)
    assert isinstance(graphed, VLAPolicy)
    assert isinstance(plain, VLAPolicy)
    for seed in (1, 2):
        for batch, padded in ((of_one_length(4, seed), False), (inputs(4, seed), True)):
            assert graphed.batch(batch).padded is padded
            assert_equal(act(graphed, batch), act(plain, batch))


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@torch.no_grad()
def test_the_forward_pass_never_waits(checkpoint: Path, *, padded: bool) -> None:
    """From frames on the device to logits there, the CPU runs ahead."""
    policy = load(checkpoint, cuda_graphs=False)
    assert isinstance(policy, VLAPolicy)
    given = inputs(4, 1) if padded else of_one_length(4, 1)
    expected = policy.decode(policy.batch(given)).logits_BTV
    torch.cuda.set_sync_debug_mode("error")
    try:
        logits = policy.decode(policy.batch(given)).logits_BTV
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(logits, expected)
