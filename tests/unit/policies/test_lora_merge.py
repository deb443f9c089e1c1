"""Earlier adapters merged into the base, and the scale of the one on top."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from rlinf.cli.evaluate import evaluated_policy
from rlinf.config import ConfigError, validate
from rlinf.config.schema import ActorConfig, Config, ModelConfig, RolloutConfig
from rlinf.data import Observation
from rlinf.models import Policy, PolicySource
from rlinf.models.lora import trainable_parameters
from rlinf.workers.rollout import RolloutWorker
from tests.launchers import request
from tests.small_policy import LANGUAGE, read_policy, write_adapter
from transformers_openvla_oft import CheckpointError, OpenVLAForActionPrediction
from transformers_openvla_oft.adapters import attach_adapter, merge_adapters, read_config, scale_adapter

REPOSITORY = Path(__file__).resolve().parents[3]
RANK = 4
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapters(small_policy, tmp_path_factory) -> list[Path]:
    """Three adapters with random weights, the second with another alpha."""
    folders = [tmp_path_factory.mktemp("adapter") for _ in range(3)]
    return [write_adapter(small_policy, folders[seed], seed=seed, lora_alpha=(4, 2, 4)[seed]) for seed in range(3)]


def _weights(small_policy: Path) -> dict[str, torch.Tensor]:
    model = OpenVLAForActionPrediction.from_pretrained(small_policy)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _base_weights(policy: Policy) -> dict[str, torch.Tensor]:
    """Weights beneath the adapter, by the names that they have without one."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): parameter.detach()
        for name, parameter in policy.module.named_parameters()
        if "lora_" not in name
    }


def _logprobs(policy: Policy) -> torch.Tensor:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 1, 256, 256, 3), dtype=np.uint8)
    inputs = policy.prepare(Observation(images, np.zeros((2, 8), np.float32), (LANGUAGE,) * 2))
    with torch.no_grad():
        return policy.evaluate_actions(inputs, torch.arange(112).view(2, 8, 7), temperature=1.0).logprobs_BCA


def test_three_merged_adapters_are_the_sum_of_their_scaled_changes(small_policy, adapters):
    """Changes are recomputed here from the files, by PEFT's own rule ``alpha / r * B A``."""
    before = _weights(small_policy)
    earlier = [str(path) for path in adapters]
    merged = _base_weights(read_policy(small_policy, previous_lora_paths=earlier, previous_lora_coeff=0.3))
    expected = {name: weight.clone() for name, weight in before.items()}
    for folder, factor in zip(adapters, (1.0, 0.5, 1.0), strict=True):
        tensors = load_file(folder / "adapter_model.safetensors")
        for key in (key for key in tensors if "lora_A" in key):
            name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            a, b = tensors[key], tensors[key.replace("lora_A", "lora_B")]
            product = b @ a if a.dim() == 2 else torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
            expected[name] += 0.3 * factor * product
    changed = [name for name in before if not torch.equal(before[name], merged[name])]
    assert any("patch_embed" in name for name in changed), "convolutions too"
    assert any("lm_head" in name for name in changed)
    torch.testing.assert_close(merged, expected, atol=1e-6, rtol=1e-5)


def test_a_merged_adapter_acts_like_the_adapter_itself(small_policy, adapters):
    """PEFT runs the adapter beside the weights; merged with coefficient 1 it is inside them."""
    beside = _logprobs(read_policy(small_policy, lora_path=str(adapters[0])))
    inside = _logprobs(read_policy(small_policy, previous_lora_paths=[str(adapters[0])], previous_lora_coeff=1.0))
    base = _logprobs(read_policy(small_policy))
    torch.testing.assert_close(inside, beside, atol=2e-4, rtol=1e-4)
    assert (beside - base).abs().max() > 0.05


@pytest.mark.parametrize(("settings", "is_base"), [({"previous_lora_coeff": 0.0}, True), ({}, False)])
def test_coefficient_zero_is_the_base_and_null_is_one(small_policy, adapters, settings, is_base):
    policy = read_policy(small_policy, previous_lora_paths=[str(adapters[0])], **settings)
    before = _weights(small_policy)
    same = all(torch.equal(before[name], weight) for name, weight in _base_weights(policy).items())
    assert same == is_base


def test_a_fresh_adapter_on_merged_ones_changes_nothing_yet(small_policy, adapters):
    settings = {"previous_lora_paths": [str(adapters[0])], "previous_lora_coeff": 0.8}
    policy = read_policy(small_policy, **settings)
    trained = _logprobs(read_policy(small_policy, **settings, lora_path=str(adapters[1])))
    fresh = _logprobs(policy)
    scale_adapter(policy.module, 0.0)
    assert torch.equal(fresh, _logprobs(policy))
    assert not torch.allclose(fresh, trained, atol=1e-3)


def test_half_a_scale_is_half_the_change(small_policy, adapters, tmp_path):
    policy = read_policy(small_policy, lora_path=str(adapters[0]))
    scale_adapter(policy.module, 0.5)
    tensors = load_file(adapters[0] / "adapter_model.safetensors")
    half = tmp_path / "half"
    half.mkdir()
    (half / "adapter_config.json").write_text((adapters[0] / "adapter_config.json").read_text())
    halved = {key: value * (0.5 if "lora_B" in key else 1.0) for key, value in tensors.items()}
    save_file(halved, half / "adapter_model.safetensors")
    torch.testing.assert_close(
        _logprobs(policy), _logprobs(read_policy(small_policy, lora_path=str(half))), atol=1e-5, rtol=0
    )


def test_in_half_precision_the_sum_is_rounded_once(tmp_path):
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).to(torch.bfloat16)
    nn.init.constant_(model[0].weight, 1.0)
    step = 2.0**-9  # a quarter of bfloat16's step at 1: each alone is rounded away, four are not

    def adapter(folder: Path) -> Path:
        folder.mkdir()
        (folder / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["0"]})
        )
        tensors = {"lora_A": torch.ones(1, 1), "lora_B": torch.full((1, 1), step)}
        save_file(
            {f"base_model.model.0.{name}.weight": value for name, value in tensors.items()},
            folder / "adapter_model.safetensors",
        )
        return folder

    merge_adapters(model, [adapter(tmp_path / str(index)) for index in range(4)], coeff=1.0)
    assert model[0].weight.item() == 1.0 + 4 * step


def test_an_adapter_of_another_model_is_refused(adapters):
    with pytest.raises(CheckpointError, match="is another model's"):
        merge_adapters(nn.Sequential(nn.Linear(2, 2)), [adapters[0]], coeff=1.0)


def _rewrite(adapter: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of ``adapter`` in ``folder`` with other tensors."""
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    (folder / CONFIG).write_text((adapter / CONFIG).read_text())
    save_file(tensors, folder / WEIGHTS)
    return folder


LAYER = "base_model.model.language_model.model.layers.0.self_attn.q_proj"
DAMAGE = {
    "no A": (lambda t: t.pop(f"{LAYER}.lora_A.weight"), rf"1 missing: {LAYER}\.lora_A\.weight\."),
    "another rank": (
        lambda t: t.update({f"{LAYER}.lora_A.weight": torch.zeros(2, 32)}),
        rf"1 of another shape: {LAYER}\.lora_A\.weight is \(2, 32\), expected \(4, 32\)",
    ),
    "a layer more": (
        lambda t: t.update({"base_model.model.language_model.model.layers.9.fc.lora_A.weight": torch.zeros(4, 32)}),
        r"1 unexpected: base_model\.model\.language_model\.model\.layers\.9\.fc\.lora_A\.weight",
    ),
    "a weight that was trained beside it": (
        lambda t: t.update({"base_model.model.language_model.model.embed_tokens.weight": torch.zeros(2, 2)}),
        r"holds weights beside .* lost: base_model\.model\.language_model\.model\.embed_tokens\.weight\. Merge",
    ),
    "not a number": (
        lambda t: t[f"{LAYER}.lora_B.weight"].fill_(torch.nan),
        rf"holds NaN or infinity: {LAYER}\.lora_B\.weight\.",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("key", ["previous_lora_paths", "lora_path"])
def test_an_adapter_that_is_incomplete_or_does_not_fit_is_refused(small_policy, adapters, tmp_path, what, key):
    """Whether it is merged or goes on being trained."""
    change, message = DAMAGE[what]
    path = str(_rewrite(adapters[0], tmp_path, change))
    with pytest.raises(CheckpointError, match=message) as error:
        read_policy(small_policy, **{key: [path] if key == "previous_lora_paths" else path})
    assert path in str(error.value)


def test_no_weight_changes_before_every_adapter_is_found_to_fit(small_policy, adapters, tmp_path):
    broken = _rewrite(adapters[1], tmp_path, lambda tensors: tensors.pop(f"{LAYER}.lora_B.weight"))
    model = OpenVLAForActionPrediction.from_pretrained(small_policy)
    with pytest.raises(CheckpointError, match="1 missing"):
        merge_adapters(model, [adapters[0], broken], coeff=1.0)
    torch.testing.assert_close(dict(model.named_parameters()), _weights(small_policy), rtol=0, atol=0)


def test_an_adapter_of_several_ranks_is_merged_as_it_acts(small_policy, adapters, tmp_path):
    def halve(tensors):
        for name in tensors:
            if name.startswith(LAYER):
                tensors[name] = (tensors[name][:2] if "lora_A" in name else tensors[name][:, :2]).contiguous()

    path = _rewrite(adapters[0], tmp_path, halve)
    config = json.loads((path / CONFIG).read_text())
    pattern = {LAYER.removeprefix("base_model.model."): 2}
    (path / CONFIG).write_text(json.dumps({**config, "rank_pattern": pattern}))
    inside = _logprobs(read_policy(small_policy, previous_lora_paths=[str(path)], previous_lora_coeff=1.0))
    torch.testing.assert_close(inside, _logprobs(read_policy(small_policy, lora_path=str(path))), atol=2e-4, rtol=1e-4)


def test_nothing_is_merged_beneath_an_adapter(small_policy, adapters):
    with pytest.raises(ValueError, match="has an adapter already"):
        merge_adapters(read_policy(small_policy).module, [adapters[0]], coeff=1.0)


def test_a_missing_earlier_adapter_is_named(small_policy, tmp_path):
    with pytest.raises(ConfigError, match=r"actor\.model\.previous_lora_paths=.*gone is not an adapter folder"):
        read_policy(small_policy, previous_lora_paths=[str(tmp_path / "gone")])


def test_inference_scales_for_an_evaluation_and_back(small_policy, adapters):
    """What a collection asks for (``CollectRequest.lora_scale``): evaluations of weight merge, then training again."""
    model = ModelConfig(lora_rank=RANK, lora_path=str(adapters[0]))
    config = Config(actor=ActorConfig(model=model), rollout=RolloutConfig(precision="fp32", num_threads=1))
    worker = RolloutWorker(config, PolicySource(small_policy, unnorm_key="libero_spatial", seed=3))
    trained, base = (_logprobs(read_policy(small_policy, lora_path=path)) for path in (adapters[0], None))
    for scale, expected in ((1.0, trained), (0.0, base), (1.0, trained)):
        worker.scale(scale)
        assert torch.equal(_logprobs(worker._policy), expected)


def test_acting_with_the_adapter_merged(small_policy, adapters):
    """The same actions, whatever came before: other weights, other scales."""
    model = ModelConfig(lora_rank=RANK, lora_path=str(adapters[0]))
    config = Config(
        actor=ActorConfig(model=model), rollout=RolloutConfig(precision="fp32", num_threads=1, merge_adapter=True)
    )
    worker = RolloutWorker(config, PolicySource(small_policy, unnorm_key="libero_spatial", seed=3))
    base = _logprobs(read_policy(small_policy))
    first, second = (read_policy(small_policy, lora_path=str(path)) for path in adapters[::2])
    weights = {
        policy: {name: value.detach().numpy() for name, value in trainable_parameters(policy.module).items()}
        for policy in (first, second)
    }
    torch.testing.assert_close(_logprobs(worker._policy), _logprobs(first), atol=1e-5, rtol=0)
    for _ in range(2):
        for policy, scale in ((second, 1.0), (first, 1.0), (first, 0.5), (second, 0.0)):
            worker.load_weights(weights[policy], version=0)
            worker.scale(scale)
            scale_adapter(policy.module, scale)
            torch.testing.assert_close(_logprobs(worker._policy), _logprobs(policy), atol=1e-5, rtol=0)
    assert torch.equal(_logprobs(worker._policy), base), "without a trace of what was merged before"


def test_merged_acting_needs_float32():
    config = Config(rollout=RolloutConfig(merge_adapter=True, precision="bf16"))
    with pytest.raises(ConfigError, match=r"rollout\.merge_adapter=true needs rollout\.precision=fp32, not bf16"):
        validate(config, num_tasks=10)


def test_what_has_no_adapter_cannot_be_scaled():
    scale_adapter(nn.Linear(2, 2), 1.0)
    with pytest.raises(ValueError, match=r"the model has no adapter that could be scaled by 0\.5"):
        scale_adapter(nn.Linear(2, 2), 0.5)


@pytest.mark.parametrize("scale", [-0.1, float("nan")])
def test_a_scale_is_a_share(scale):
    with pytest.raises(ValueError, match=r"between 0 \(off\) and 1"):
        scale_adapter(nn.Linear(2, 2), scale)


@torch.no_grad()
def test_the_example_in_the_packages_readme(small_policy, adapters, tmp_path):
    """Run as it stands there: two merged adapters, a fresh one on them that is saved, then half of it."""
    text = (REPOSITORY / "transformers-openvla-oft" / "README.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "merge_adapters" in block)
    before, training = example.split("...  # training")
    names = {
        "model": OpenVLAForActionPrediction.from_pretrained(small_policy),
        "first_task": adapters[0],
        "second_task": adapters[1],
        "third_task": tmp_path,
    }
    exec(before, names)
    weights = {name: weight.clone() for name, weight in names["policy"].named_parameters() if "lora_" not in name}
    merged = _base_weights(
        read_policy(small_policy, previous_lora_paths=[str(path) for path in adapters[:2]], previous_lora_coeff=0.8)
    )
    found = {n.removeprefix("base_model.model.").replace(".base_layer.", "."): w for n, w in weights.items()}
    torch.testing.assert_close(found, merged, rtol=0, atol=0)
    for name, parameter in names["policy"].named_parameters():
        if "lora_B" in name:
            parameter.fill_(0.01)
    exec(training, names)
    again = attach_adapter(
        OpenVLAForActionPrediction.from_pretrained(small_policy), read_config(tmp_path), path=tmp_path, seed=0
    )
    trained = {name: parameter for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert trained.keys() == names["adapter"].keys()
    assert all(torch.equal(parameter, names["adapter"][name]) for name, parameter in trained.items())
    scales = {layer.scaling["default"] for layer in names["policy"].modules() if isinstance(layer, LoraLayer)}
    assert scales == {0.5}


def test_the_base_model_of_weight_merge_is_a_row_of_the_matrix(small_policy):
    """The factors of adapters are no change of a policy that has none."""
    policy = evaluated_policy(request(small_policy, "method=weight_merge", "method.merge.coeff=0.8"))
    assert policy is not None
    assert (policy.row, policy.lora_scale, policy.probe) == ("base", 1.0, False)
