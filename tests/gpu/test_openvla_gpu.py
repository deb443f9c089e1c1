"""OpenVLA-OFT on a GPU: attention routes, precision of rollouts and updates, compiled blocks, graphs and pads."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.utils.import_utils import is_flash_attn_2_available

from rlinf.engines.distributed import free_port, join_group, leave_group
from rlinf.engines.fsdp import shard
from rlinf.models import Policy, PolicyInputs, PolicySource, load_policy
from rlinf.models.lora import trainable_parameters
from tests.small_policy import LANGUAGE, model_config
from transformers_openvla_oft import (
    OpenVLAForActionPrediction,
    PrismaticProcessor,
    SmallSizes,
    TowerSizes,
    choose_attention,
    create_small_checkpoint,
)
from transformers_openvla_oft.small import DINOV2, SIGLIP

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
needs_flash = pytest.mark.skipif(not is_flash_attn_2_available(), reason="needs the package flash-attn")
TASKS = ("open the drawer", LANGUAGE, "turn on the stove", LANGUAGE)
TEMPERATURE = 1.6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 64, as flash-attention wants them, and depth enough for rounding to add up."""
    path = tmp_path_factory.mktemp("policy") / "small"
    towers = tuple(TowerSizes(timm_id=name, embed_dim=128, depth=3, num_heads=2) for name in (DINOV2, SIGLIP))
    sizes = SmallSizes(image_size=64, towers=towers, hidden_size=256, num_layers=6, num_heads=4, intermediate_size=512)
    bounds = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
    create_small_checkpoint(path, sizes=sizes, norm_stats={"libero_spatial_no_noops": {"action": bounds}})
    return path


def load(folder: Path, *, trains: bool, cuda_graphs: bool = False, **options: object) -> Policy:
    """A bf16 policy whose adapter has an effect."""
    source = PolicySource(
        folder, unnorm_key="libero_spatial", seed=3, critic=True, trains=trains, cuda_graphs=cuda_graphs
    )
    policy = load_policy(replace(model_config(folder), **options), source, base_dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainable_parameters(policy.module).items():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        # Fresh small heads hardly tell bins apart.
        model = policy.module.get_base_model()
        assert isinstance(model, OpenVLAForActionPrediction)
        head = model.language_model.lm_head
        nn.Module.to(head.get_base_layer(), torch.bfloat16).weight.mul_(10)
    policy.to(torch.device("cuda"))
    return policy


def inputs(num_rows: int = 4, *, tasks: tuple[str, ...] = TASKS) -> PolicyInputs:
    frames = np.random.default_rng(0).integers(0, 256, (num_rows, 1, 64, 64, 3), np.uint8)
    return PolicyInputs(torch.from_numpy(frames).cuda(), tasks[:num_rows])


def logprobs(policy: Policy, given: PolicyInputs) -> Tensor:
    bins_BCA = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (len(given), *policy.chunk_shape))).cuda()
    return policy.evaluate_actions(given, bins_BCA, temperature=TEMPERATURE).logprobs_BCA


@pytest.fixture
def mesh() -> Iterator[torch.distributed.device_mesh.DeviceMesh]:
    joined = join_group(rank=0, world_size=1, init_method=f"tcp://127.0.0.1:{free_port()}", own_address="127.0.0.1")
    yield joined
    leave_group()


@needs_flash
@pytest.mark.parametrize("multiple", [None, 1])
@torch.no_grad()
def test_flash_attention_agrees_on_padded_batches(folder: Path, multiple: int | None) -> None:
    processor = PrismaticProcessor.from_pretrained(folder, prompt_multiple=multiple)
    batch = processor(inputs().images_BNHWC, TASKS)
    given = dict(zip(("input_ids_BL", "attention_mask_BL", "pixel_values"), batch.tensors(), strict=True))
    logits = {}
    for route in ("sdpa", "flash_attention_2"):
        model = OpenVLAForActionPrediction.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=route)
        logits[route] = model.cuda().eval()(**given).logits_BTV
    exact = OpenVLAForActionPrediction.from_pretrained(folder, dtype=torch.float32).cuda().eval()(**given).logits_BTV
    error = (logits["sdpa"] - exact).abs().mean()
    assert (logits["flash_attention_2"] - exact).abs().mean() < 1.5 * error + 1e-4
    assert choose_attention(None, dtype=torch.bfloat16) == "flash_attention_2"


@torch.no_grad()
def test_sdpa_agrees_with_eager_on_padded_batches(folder: Path) -> None:
    batch = PrismaticProcessor.from_pretrained(folder)(inputs().images_BNHWC, TASKS)
    given = dict(zip(("input_ids_BL", "attention_mask_BL", "pixel_values"), batch.tensors(), strict=True))
    routes = [
        OpenVLAForActionPrediction.from_pretrained(folder, dtype=torch.float32, attn_implementation=route).cuda().eval()
        for route in ("eager", "sdpa")
    ]
    torch.testing.assert_close(routes[0](**given).logits_BTV, routes[1](**given).logits_BTV, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_checkpointing": True, "gradient_checkpointing_policy": "matmuls"},
        {"compile_blocks": True},
        {"compile_blocks": True, "gradient_checkpointing": True, "gradient_checkpointing_policy": "full"},
        {"compile_blocks": True, "gradient_checkpointing": True, "gradient_checkpointing_policy": "attention"},
        {"compile_blocks": True, "gradient_checkpointing": True, "gradient_checkpointing_policy": "matmuls"},
    ],
    ids=["plain", "checkpointed", "compiled", "compiled-full", "compiled-attention", "compiled-matmuls"],
)
def test_rollouts_and_updates_agree_on_log_probabilities(
    folder: Path, mesh: object, options: dict[str, object]
) -> None:
    """In bf16, so that ratios of PPO start at 1."""
    given = inputs()
    acting = load(folder, trains=False, compile_blocks=bool(options.get("compile_blocks", False)))
    with torch.no_grad():
        acted = logprobs(acting, given)
    learner = load(folder, trains=True, **options)
    assert isinstance(mesh, torch.distributed.device_mesh.DeviceMesh)
    shard(
        learner.module, learner.units(), mesh, param_dtype="bf16", reshard_after_forward=True,
        value_head=learner.value_head,
    )  # fmt: skip
    learnt = logprobs(learner, given)
    learnt.mean().backward()
    assert acted.std() > 0.1, "the bins must differ"
    assert (learnt.detach() - acted).abs().mean() < 0.01
    gradients = [p.grad for p in trainable_parameters(learner.module).values() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient.full_tensor()).all() for gradient in gradients)


def test_graphs_follow_prompts_with_and_without_pads(folder: Path) -> None:
    """A graph recorded where no row has a pad must not forget the mask for rows that have."""
    graphed, plain = (load(folder, trains=False, cuda_graphs=graphs) for graphs in (True, False))
    plain.processor.prompt_multiple = 8
    for tasks in ((LANGUAGE,) * 4, TASKS, ("open the drawer",) * 4):
        given = inputs(tasks=tasks)
        uniforms = np.random.default_rng(2).random((4, *plain.chunk_shape))
        outputs = [policy.act(given, temperature=1.0, uniforms_BCA=uniforms) for policy in (graphed, plain)]
        assert torch.equal(outputs[0].bins_BCA, outputs[1].bins_BCA)
        torch.testing.assert_close(outputs[0].logprobs_BCA, outputs[1].logprobs_BCA, rtol=0, atol=2e-2)
