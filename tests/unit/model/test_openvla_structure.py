"""Parameter names and shapes of the 7B model and of its LoRA adapter, built on the meta device."""

import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from transformers_openvla_oft import (
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    ValueHead,
    fsdp_units,
    lora_target_modules,
)
from transformers_openvla_oft.model.vision import TOWERS, resolve_tower

REPOSITORY = Path(__file__).resolve().parents[3]
FACTS = Path(os.environ.get("OPENVLA_FACTS", REPOSITORY.parent / "shared" / "facts"))
needs_facts = pytest.mark.skipif(not FACTS.is_dir(), reason="set OPENVLA_FACTS to the folder of openvla_7b_params.json")

DINOV2, SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"
NUM_PARAMS_7B, NUM_TENSORS_7B = 7_541_237_184, 982
NUM_LORA_MODULES, NUM_LORA_PARAMS = 439, 110_828_288


@pytest.fixture(scope="module")
def model_7b():
    config = OpenVLAConfig(
        vision_backbone_id="dinosiglip-vit-so-224px",
        timm_model_ids=[DINOV2, SIGLIP],
        arch_specifier="no-align+fused-gelu-mlp",
    )
    with torch.device("meta"):
        return OpenVLAForActionPrediction(config)


def shapes(tensors):
    return {name: list(tensor.shape) for name, tensor in tensors}


def test_7b_sizes(model_7b):
    parameters = list(model_7b.parameters())
    assert (len(parameters), sum(p.numel() for p in parameters)) == (NUM_TENSORS_7B, NUM_PARAMS_7B)
    assert len(fsdp_units(model_7b)) == 32 + 23 + 26  # the last block of each tower never runs
    config = model_7b.config
    assert (config.action_token_begin, config.action_token_end, config.num_action_tokens) == (31744, 32000, 56)
    assert config.llama.rms_norm_eps == 1e-6


@needs_facts
def test_7b_parameter_names_are_the_published_ones(model_7b):
    facts = json.loads((FACTS / "openvla_7b_params.json").read_text())
    published = {name: shape for name, (shape, _) in facts["params"].items() if not name.startswith("value_head")}
    assert shapes(model_7b.named_parameters()) == published


def test_lora_changes_the_published_number_of_modules(model_7b):
    names = lora_target_modules(model_7b)
    assert len(names) == len(set(names)) == NUM_LORA_MODULES
    assert "language_model.lm_head" in names
    assert "vision_backbone.featurizer.patch_embed.proj" in names


@needs_facts
def test_lora_tensor_names_are_the_published_ones(model_7b):
    facts = json.loads((FACTS / "openvla_oft_lora_r32_params.json").read_text())
    targets = lora_target_modules(model_7b)
    assert {name.rsplit(".", 1)[-1] for name in targets} == set(facts["target_modules"])
    with torch.device("meta"):
        wrapped = get_peft_model(model_7b, LoraConfig(r=32, lora_alpha=32, target_modules=targets))
    adapter = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    assert shapes(adapter.items()) == {name: shape for name, (shape, _) in facts["params"].items()}
    assert sum(tensor.numel() for tensor in adapter.values()) == NUM_LORA_PARAMS
    assert len(fsdp_units(wrapped)) == 32 + 23 + 26  # the last block of each tower never runs


def test_value_head_size():
    head = ValueHead(4096)
    assert sum(p.numel() for p in head.parameters()) == 2_163_456
    assert torch.equal(head(torch.randn(2, 4096)), torch.zeros(2, 1))


def test_prefix_tokens_follow_from_the_timm_id():
    assert {timm_id: spec.num_prefix_tokens for timm_id, spec in TOWERS.items()} == {DINOV2: 5, SIGLIP: 0}
    with pytest.raises(ValueError, match="unknown vision tower"):
        resolve_tower("resnet50", img_size=224, act_layer=None, overrides={})
    with pytest.raises(ValueError, match="multiple of patch_size"):
        resolve_tower(DINOV2, img_size=130, act_layer=None, overrides={})
