"""Checkpointed and compiled blocks give the gradients of plain ones, with an adapter, sharded, and together."""

import gc
import weakref
from collections import Counter
from contextlib import contextmanager
from functools import partialmethod
from shutil import which

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.testing import assert_close
from torch.utils.checkpoint import CheckpointPolicy

from openvla_oft.torch_utils.tensors import whole
from rlinf.data import Observation
from rlinf.engines.fsdp import shard
from rlinf.models.lora import trainable_parameters
from tests.small_policy import LANGUAGE, disturb, read_policy
from transformers_openvla_oft import (
    SmallSizes,
    TowerSizes,
    checkpoint_blocks,
    create_small_checkpoint,
    fsdp_units,
)
from transformers_openvla_oft.adapters import scale_adapter
from transformers_openvla_oft.model import blocks, language, vision
from transformers_openvla_oft.model.blocks import CHECKPOINTING_POLICIES
from transformers_openvla_oft.small import DINOV2

needs_compiler = pytest.mark.skipif(which("g++") is None and which("clang++") is None, reason="needs a C++ compiler")
LAYER = "language_model.model.layers.1"


def effective(policy):
    return disturb(policy, 0.3)


def outcome(policy, *, num_rows=3):
    images = torch.randint(0, 256, (num_rows, 1, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    batch = policy.processor(images.to(torch.uint8), ("open the drawer", LANGUAGE, "close it")[:num_rows])
    policy.module.zero_grad()
    logits_BTV = policy.decode(batch).logits_BTV
    logits_BTV.log_softmax(-1)[..., 3].mean().backward()
    gradients = {name: p.grad for name, p in trainable_parameters(policy.module).items()}
    return logits_BTV, {name: whole(gradient) for name, gradient in gradients.items() if gradient is not None}


def assert_same(actual, expected):
    assert_close(actual[0], expected[0], rtol=0, atol=2e-5)
    assert_close(actual[1], expected[1], rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def plain(small_policy):
    return outcome(effective(read_policy(small_policy)))


def counted(policy):
    """How often modules run."""
    calls = Counter()
    for name, module in policy.module.get_base_model().named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    return calls


@pytest.mark.parametrize("policy_name", CHECKPOINTING_POLICIES)
def test_checkpointing_changes_no_gradient(small_policy, plain, policy_name):
    policy = effective(read_policy(small_policy))
    assert checkpoint_blocks(policy.module, policy=policy_name) == len(fsdp_units(policy.module)) == 4
    calls = counted(policy)
    assert_same(outcome(policy), plain)
    assert calls[f"{LAYER}.mlp.gate_proj"] == 2
    assert calls["vision_backbone.featurizer.blocks.0.mlp.fc1"] == 2
    assert calls["projector.fc1"] == 1


def kept_bytes(policy):
    """Memory of the tensors that a forward pass keeps for the backward pass, blocks' inner ones included."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        images = torch.zeros(8, 1, 32, 32, 3, dtype=torch.uint8)
        logits_BTV = policy.decode(policy.processor(images, [LANGUAGE] * 8)).logits_BTV
    del logits_BTV
    return sum(kept.values())


def test_checkpointing_keeps_less(small_policy):
    def measure(**options):
        policy = read_policy(small_policy)
        if options:
            checkpoint_blocks(policy.module, **options)
        return kept_bytes(policy)

    full, half, nothing = measure(policy="full"), measure(policy="full", every=2), measure()
    assert full < half < nothing


def kept_operators(small_policy, policy_name, monkeypatch):
    """Operators whose results a selective policy keeps, and how many of each in a forward pass."""
    decide, kept = blocks._DECISIONS[policy_name], Counter()

    def recording(context, operator, *args, **kwargs):
        decision = decide(context, operator, *args, **kwargs)
        if decision == CheckpointPolicy.MUST_SAVE and not context.is_recompute:
            kept[str(operator)] += 1
        return decision

    monkeypatch.setitem(blocks._DECISIONS, policy_name, recording)
    policy = read_policy(small_policy)
    checkpoint_blocks(policy.module, policy=policy_name)
    outcome(policy)
    return kept


def test_selective_policies_keep_what_they_say(small_policy, monkeypatch):
    """Attention of four blocks; of large products, four in a ViT block (biased) and seven in a LLaMA layer."""
    monkeypatch.setattr(blocks, "MIN_INNER_SIZE", 16)  # the small policy's layers are 32 wide, its adapters 4
    attention = kept_operators(small_policy, "attention", monkeypatch)
    assert sum(attention.values()) == 4
    assert all("scaled_dot_product" in name for name in attention)
    matmuls = kept_operators(small_policy, "matmuls", monkeypatch)
    products = {name: count for name, count in matmuls.items() if name not in attention}
    # and of the adapters the A, which sums over the layer's inputs, but not the B
    assert products == {"aten.addmm.default": 2 * 4, "aten.mm.default": 2 * 4 + 2 * 7 * 2}


def test_the_configuration_chooses_the_policy(small_policy, plain):
    settings = {"gradient_checkpointing_policy": "matmuls", "gradient_checkpointing_every": 2}
    policy = effective(read_policy(small_policy, gradient_checkpointing=True, **settings))
    assert [block.gradient_checkpointing for block in fsdp_units(policy.module)] == [True, False, True, False]
    assert_same(outcome(policy), plain)
    acting = read_policy(small_policy, gradient_checkpointing=True, trains=False, **settings)
    assert not any(block.gradient_checkpointing for block in fsdp_units(acting.module))


def test_a_policy_that_only_acts_keeps_its_adapter_in_its_own_precision(small_policy):
    policy = read_policy(small_policy, trains=False, critic=True, dtype=torch.bfloat16)
    dtypes = {name: p.dtype for name, p in trainable_parameters(policy.module).items()}
    assert {dtype for name, dtype in dtypes.items() if "lora_" in name} == {torch.bfloat16}
    assert {dtype for name, dtype in dtypes.items() if "value_head" in name} == {torch.float32}
    observation = Observation(np.zeros((2, 1, 32, 32, 3), np.uint8), np.zeros((2, 8), np.float32), (LANGUAGE,) * 2)
    output = policy.act(policy.prepare(observation), temperature=1.0, uniforms_BCA=np.full((2, 8, 7), 0.5))
    assert output.logprobs_BCA.dtype == torch.float32


@contextmanager
def for_one_size(monkeypatch):
    """Blocks are compiled for the sizes of their first batch, which takes half as long. For all sizes: below."""
    for module in (language, vision):
        monkeypatch.setattr(module, "any_size", lambda tensor, *_: tensor)
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        yield


def trace_only(monkeypatch, backend):
    """Blocks are traced as for compiling, and with ``aot_eager`` differentiated, but run without kernels of their own,
    of which there are a hundred, a second of compiling each. With kernels: below, and in tests/gpu."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend))
    monkeypatch.setattr(blocks, "_COMPILER_OPTIONS", None)
    torch._dynamo.reset()
    counters.clear()


def test_compiled_blocks_that_are_checkpointed_and_sharded(small_policy, plain, tmp_path, monkeypatch):
    """In the place of a policy that was let go of, as at the start of a sequence's next task, nothing is compiled."""
    trace_only(monkeypatch, "aot_eager")
    settings = {"compile_blocks": True, "gradient_checkpointing": True, "gradient_checkpointing_policy": "matmuls"}
    graphs = []
    for number in range(2):
        policy = effective(read_policy(small_policy, **settings))
        policy.processor.prompt_multiple = 1
        store = torch.distributed.FileStore(str(tmp_path / f"store {number}"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
            options = {"reshard_after_forward": True, "shard_frozen": True}
            shard(policy.module, policy.units(), mesh, param_dtype="fp32", **options)
            with for_one_size(monkeypatch):
                assert_same(outcome(policy), plain)
        finally:
            torch.distributed.destroy_process_group()
        earlier = weakref.ref(policy.module)
        del policy
        gc.collect()
        assert earlier() is None
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0


def test_the_next_task_compiles_nothing(small_policy, monkeypatch):
    """Updates on one task are batches of one prompt, which is longer or shorter than the next task's."""
    trace_only(monkeypatch, "eager")
    policy = effective(read_policy(small_policy, compile_blocks=True))
    images = torch.zeros(4, 1, 32, 32, 3, dtype=torch.uint8)
    graphs = []
    for rows, task in ((3, LANGUAGE), (4, "open the drawer"), (2, "close it")):
        policy.decode(policy.processor(images[:rows], [task] * rows)).logits_BTV.mean().backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] == graphs[2] > 0


@pytest.mark.parametrize("name", ["small_policy", "autoregressive_policy"])
def test_compiled_policies_act_on_batches_of_all_sizes(request, monkeypatch, name):
    """A few versions of the blocks serve every batch; no layer is left uncompiled because there are too many."""
    trace_only(monkeypatch, "eager")
    folder = request.getfixturevalue(name)
    plain, compiled = (effective(read_policy(folder, trains=False, compile_blocks=on)) for on in (False, True))

    def act(policy, num_rows):
        images = np.random.default_rng(0).integers(0, 256, (num_rows, 1, 32, 32, 3), np.uint8)
        tasks = (LANGUAGE, "open the drawer")[num_rows % 2 :] * num_rows
        observation = Observation(images, np.zeros((num_rows, 8), np.float32), tasks[:num_rows])
        uniforms = np.random.default_rng(1).random((num_rows, *policy.chunk_shape))
        return policy.act(policy.prepare(observation), temperature=1.0, uniforms_BCA=uniforms)

    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for num_rows in (3, 2, 5, 1, 4):
            outputs = [act(policy, num_rows) for policy in (plain, compiled)]
            assert_close(outputs[1].logprobs_BCA, outputs[0].logprobs_BCA, rtol=0, atol=1e-4)
        for policy in (plain, compiled):
            scale_adapter(policy.module, 0.5)
        assert_close(act(compiled, 3).logprobs_BCA, act(plain, 3).logprobs_BCA, rtol=0, atol=1e-4)


@needs_compiler
@pytest.mark.slow
def test_compiled_passes_with_and_without_gradients_agree_in_bf16(tmp_path, monkeypatch):
    """Rollouts and updates: ratios of PPO start at 1. And both with what is not compiled.

    Without vector instructions, which take longer to compile.
    """
    towers = (TowerSizes(timm_id=DINOV2, embed_dim=64, depth=3, num_heads=1),)
    sizes = SmallSizes(image_size=32, towers=towers, hidden_size=64, num_layers=6, num_heads=1, intermediate_size=128)
    bounds = {"q01": [-1.0] * 7, "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
    create_small_checkpoint(tmp_path / "deep", sizes=sizes, norm_stats={"libero_spatial": {"action": bounds}})
    plain, policy = (
        effective(read_policy(tmp_path / "deep", compile_blocks=on, dtype=torch.bfloat16)) for on in (False, True)
    )
    for one in (plain, policy):
        nn.Module.to(one.module, torch.bfloat16)
    torch._dynamo.reset()  # versions of earlier tests count, and beyond the limit nothing is compiled
    images = torch.randint(0, 256, (4, 1, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    batch = policy.processor(images, (LANGUAGE,) * 4)
    with for_one_size(monkeypatch), torch._inductor.config.patch({"cpp.vec_isa_ok": False}):
        with torch.no_grad():
            acted = policy.decode(batch).logits_BTV
            assert_close(acted, plain.decode(batch).logits_BTV, rtol=0, atol=0.1)  # bits of 1 are 0.008 apart
        assert acted.std() > 0.5
        assert_close(policy.decode(batch).logits_BTV.detach(), acted, rtol=0, atol=1e-2)
