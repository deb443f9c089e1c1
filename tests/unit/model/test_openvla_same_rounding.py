"""Layers that round in the same way wherever they run: their gradients, and where a model has them.

Their kernels: `test_openvla_kernels.py`, and on a GPU `tests/gpu/test_same_rounding.py`.
"""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from transformers_openvla_oft import OpenVLAForActionPrediction, adapters, lora_target_modules
from transformers_openvla_oft.model import same_rounding

OPERATORS = torch.ops.openvla_oft


def tensors(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


CASES = {
    "rms": (OPERATORS.rms_norm, lambda x, weight, epsilon: functional.rms_norm(x, (8,), weight, epsilon), 2),
    "layer": (
        OPERATORS.layer_norm,
        lambda x, weight, bias, epsilon: functional.layer_norm(x, (8,), weight, bias, epsilon),
        3,
    ),
}


@pytest.mark.parametrize("frozen", [(), (1, 2), (0,)], ids=["all", "frozen weights", "frozen input"])
@pytest.mark.parametrize("case", CASES)
def test_norms_have_the_values_and_gradients_of_pytorch(case, frozen):
    operator, plain, count = CASES[case]
    results = []
    for function in (operator.default, plain):
        given = tensors((3, 5, 8), (8,), (8,))[:count]
        for index in frozen:
            if index < count:
                given[index].requires_grad_(False)
        output = function(*given, 1e-3)
        output.square().sum().backward()
        results.append((output, [tensor.grad for tensor in given]))
    assert_close(results[0], results[1])


@pytest.mark.parametrize("case", CASES)
def test_compilers_know_the_norms(case):
    operator, _, count = CASES[case]
    torch.library.opcheck(operator.default, (*tensors((3, 5, 8), (8,), (8,))[:count], 1e-3))


def test_gradients_of_products():
    """What runs without a GPU is plain PyTorch; the formulas of the gradients are those of the kernels, too."""
    assert torch.autograd.gradcheck(OPERATORS.narrow_product.default, tensors((6, 5), (3, 5)))
    given = tensors((6, 5), (6, 5), (6, 4), (5, 2), (5, 2))
    assert torch.autograd.gradcheck(lambda *given: OPERATORS.swiglu.default(*given, 0.5), given)
    torch.library.opcheck(OPERATORS.narrow_product.default, tuple(tensors((6, 5), (3, 5))))
    torch.library.opcheck(OPERATORS.swiglu.default, (*given, 0.5))


def test_a_model_has_them_under_the_published_names(small_policy):
    model = OpenVLAForActionPrediction.from_pretrained(small_policy)
    llama = model.language_model.model
    norms = [module for module in llama.modules() if isinstance(module, LlamaRMSNorm)]
    assert len(norms) == 2 * len(llama.layers) + 1
    assert all(type(norm) is same_rounding.RMSNorm for norm in norms)
    blocks = [block for tower in model.vision_backbone.children() for block in tower.blocks]
    assert all(type(norm) is same_rounding.LayerNorm for block in blocks for norm in (block.norm1, block.norm2))
    assert type(model.language_model.lm_head) is same_rounding.NarrowLinear
    assert {norm.variance_epsilon for norm in norms} == {llama.config.rms_norm_eps}


@torch.no_grad()
def test_an_adapter_has_them_and_computes_what_peft_does(small_policy):
    names = lora_target_modules(OpenVLAForActionPrediction.from_pretrained(small_policy))
    config = LoraConfig(r=4, lora_alpha=8, target_modules=names)
    plain = get_peft_model(OpenVLAForActionPrediction.from_pretrained(small_policy), config)
    ours = adapters.attach_adapter(OpenVLAForActionPrediction.from_pretrained(small_policy), config, path=None, seed=0)
    for parameter in (p for name, p in plain.named_parameters() if "lora_" in name):
        nn.init.normal_(parameter, std=0.1)
    ours.load_state_dict(plain.state_dict())
    first = {name: module for name, module in ours.named_modules() if name.endswith("lora_A.default")}
    kinds = {type(module) for module in first.values()}
    assert kinds == {same_rounding.NarrowLinear, nn.Conv2d}
    config = ours.get_base_model().config
    size = config.image_sizes[0]
    given = {
        "input_ids_BL": torch.tensor([[1, 5, 6, 2]]),
        "attention_mask_BL": torch.ones(1, 4, dtype=torch.long),
        "pixel_values": torch.randn(1, 3 * config.num_towers, size, size),
    }
    assert torch.equal(ours(**given).logits_BTV, plain(**given).logits_BTV)
    assert {p for p in ours.parameters() if p.requires_grad} == {
        p for name, p in ours.named_parameters() if "lora_" in name
    }


@pytest.mark.parametrize("gradients", [False, True], ids=["acting", "learning"])
def test_a_compiled_product_serves_batches_of_all_sizes(gradients):
    """One graph for the first size, one for all others; a number of rows that is fixed would be compiled each time."""
    torch._dynamo.reset()
    graphs = []

    def count(module, _inputs):
        graphs.append(module)
        return module.forward

    weight = torch.randn(3, 8)
    product = torch.compile(lambda x: OPERATORS.narrow_product(x * 2, weight) + 1, backend=count)
    for rows in (4, 5, 6, 7, 9, 11):
        x = torch.randn(rows, 8, requires_grad=gradients)
        assert_close(product(x), 2 * x @ weight.T + 1)
    assert len(graphs) == 2
