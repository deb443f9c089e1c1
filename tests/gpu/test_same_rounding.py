"""In 16 bits, log-probabilities depend neither on the size of the batch nor on whether there are gradients."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from rlinf.models.lora import attach_lora, trainable_parameters
from transformers_openvla_oft import (
    OpenVLAForActionPrediction,
    SmallSizes,
    TowerSizes,
    compile_blocks,
    lora_target_modules,
)
from transformers_openvla_oft.model import operators, same_rounding
from transformers_openvla_oft.small import DINOV2

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
BATCH = 32


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


@pytest.fixture
def model() -> Iterator[nn.Module]:
    """Two layers as wide as the 7B's, where cuBLAS splits sums, and a tower."""
    towers = (TowerSizes(timm_id=DINOV2, embed_dim=1024, depth=2, num_heads=16),)
    sizes = SmallSizes(
        image_size=224, towers=towers, hidden_size=4096, num_layers=2, num_heads=32, intermediate_size=11008
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        base = OpenVLAForActionPrediction._from_config(sizes.config(), dtype=torch.bfloat16).requires_grad_(False)
    wrapped = attach_lora(base, target_modules=lora_target_modules(base), rank=32, alpha=None, path=None, seed=0)
    for name, parameter in trainable_parameters(wrapped).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.01)
        parameter.data = parameter.data.bfloat16()
    yield wrapped
    torch._dynamo.reset()


def logits(model: nn.Module, batch: int) -> Tensor:
    config = model.get_base_model().config
    ids = torch.randint(3, 100, (BATCH, 33), generator=torch.Generator().manual_seed(0))[:batch].cuda()
    pixels = random(BATCH, 3 * config.num_towers, 224, 224)[:batch]
    output = model(input_ids_BL=ids, attention_mask_BL=torch.ones_like(ids), pixel_values=pixels, padded=False)
    return output.logits_BTV


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_a_row_is_the_same_in_every_batch_with_and_without_gradients(model: nn.Module, compiled: bool) -> None:
    if compiled:
        compile_blocks(model)
    with torch.no_grad():
        acted = logits(model.eval(), BATCH)
    assert acted.std() > 0.1
    for batch in (BATCH, BATCH // 2, 8, *([] if compiled else [1])):  # one row would be compiled once more
        with torch.no_grad():
            assert torch.equal(logits(model.eval(), batch), acted[:batch])
        assert torch.equal(logits(model.train(), batch), acted[:batch])


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 4096, 32), (130, 4304, 32), (70, 4096, 96), (77, 300, 256), (5, 40, 3)]
)
@pytest.mark.parametrize("dtype", same_rounding.SHORT_TYPES)
def test_narrow_products(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    layer = same_rounding.narrow(nn.Linear(inputs, outputs, bias=False, device="cuda", dtype=dtype))
    x = random(3, rows, inputs, dtype=dtype).requires_grad_()
    product = layer(x)
    exact = functional.linear(x.double(), layer.weight.double())
    assert_close(product, exact.to(dtype), rtol=2e-2, atol=2e-3)
    assert torch.equal(layer(x[:1]), product[:1])
    assert torch.equal(layer(x.transpose(0, 1).contiguous().transpose(0, 1)), product)
    product.sum().backward()
    assert_close(x.grad, layer.weight.sum(0).expand_as(x), rtol=2e-2, atol=2e-3)
    assert layer.weight.grad is not None


@pytest.mark.parametrize("dtype", same_rounding.SHORT_TYPES)
def test_norms(dtype: torch.dtype) -> None:
    x = random(4, 7, 96, dtype=dtype)
    for ours in (same_rounding.RMSNorm(96), same_rounding.LayerNorm(96)):
        nn.init.normal_(ours.weight)
        exact = type(ours).__mro__[1].forward(ours.double().cuda(), x.double())
        assert_close(ours.to(dtype)(x), exact.to(dtype), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", same_rounding.SHORT_TYPES)
@pytest.mark.parametrize(("rows", "columns", "rank"), [(130, 11008, 32), (5, 70, 8)])
def test_swiglu(rows: int, columns: int, rank: int, dtype: torch.dtype) -> None:
    shapes = (rows, columns), (rows, columns), (rows, 2 * rank), (columns, rank), (columns, rank)
    given = [random(*shape, dtype=dtype, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in given]
    result, expected = operators.swiglu(*given, 0.5), operators.swiglu(*exact, 0.5)
    assert_close(result.cpu().double(), expected, rtol=2e-2, atol=0.1)
    assert torch.equal(operators.swiglu(given[0][:3], given[1][:3], given[2][:3], *given[3:], 0.5), result[:3])
    grad = random(rows, columns, dtype=dtype, seed=9)
    result.backward(grad)
    expected.backward(grad.cpu().double())
    for ours, theirs in zip(given, exact, strict=True):
        error = (ours.grad.cpu().double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 2e-2
