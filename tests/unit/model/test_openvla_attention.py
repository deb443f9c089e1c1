"""Attention routes agree on padded batches, and prompts without the pads that all rows share change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from rlinf.config import ConfigError
from rlinf.config.schema import ATTENTION_ROUTES as CONFIG_ROUTES
from rlinf.config.schema import CHECKPOINTING_POLICIES as CONFIG_POLICIES
from rlinf.config.schema import PICTURE_PATHS as CONFIG_PICTURES
from rlinf.models import PolicySource, load_policy
from tests.small_policy import model_config, read_policy
from tests.unit.model.prompts import TASKS, assert_same, batch_of, load, outcome
from transformers_openvla_oft import PrismaticProcessor, choose_attention, fsdp_units
from transformers_openvla_oft.model import language
from transformers_openvla_oft.model.blocks import CHECKPOINTING_POLICIES
from transformers_openvla_oft.model.language import ATTENTION_ROUTES
from transformers_openvla_oft.model.layouts import oft_hidden_states
from transformers_openvla_oft.processing.images import PICTURE_PATHS


def arguments(batch):
    """Without what it says of its pads, which the model then looks up."""
    return dict(zip(("input_ids_BL", "attention_mask_BL", "pixel_values"), batch.tensors(), strict=True))


def inputs_of(folder, tasks=TASKS, **options):
    return arguments(batch_of(folder, tasks, **options))


def test_eager_and_sdpa_agree_on_padded_batches(either):
    inputs = inputs_of(either)
    lengths = inputs["attention_mask_BL"].sum(dim=1)
    assert lengths.max() < inputs["attention_mask_BL"].shape[1], "pads in every row"
    assert len(set(lengths.tolist())) > 1, "and more in some"
    eager, sdpa = (load(either, attn_implementation=route) for route in ("eager", "sdpa"))
    assert [model.language_model.config._attn_implementation for model in (eager, sdpa)] == ["eager", "sdpa"]
    assert_same(outcome(eager, inputs), outcome(sdpa, inputs))


@pytest.mark.parametrize("multiple", [1, 8])
def test_shared_pads_can_be_left_out(either, multiple):
    model = load(either)
    padded, trimmed = (inputs_of(either, max_prompt_length=50, prompt_multiple=given) for given in (None, multiple))
    longest = int(padded["attention_mask_BL"].sum(dim=1).max())
    slots = trimmed["input_ids_BL"].shape[1]
    assert slots == -(-longest // multiple) * multiple < padded["input_ids_BL"].shape[1]
    assert_same(outcome(model, trimmed), outcome(model, padded))


@pytest.mark.parametrize("multiple", [1, 1000])
def test_prompts_of_one_length_need_no_pads(either, multiple):
    model = load(either)
    inputs = inputs_of(either, TASKS[:1] * 2, prompt_multiple=multiple)
    assert inputs["attention_mask_BL"].all()
    assert_same(outcome(model, inputs), outcome(model, inputs_of(either, TASKS[:1] * 2)))


def test_batches_know_whether_they_are_padded(either):
    unpadded = batch_of(either, TASKS[:1] * 2, prompt_multiple=1)
    padded = batch_of(either, prompt_multiple=1)
    assert (unpadded.padded, padded.padded) == (False, True)
    assert batch_of(either, TASKS[:1] * 2).padded is True, "all rows share these pads"
    assert padded.to("cpu").select(slice(1, 2)).padded is True


class _Masks(TorchFunctionMode):
    """Notes the mask of every causal or masked attention (the towers' has neither)."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.scaled_dot_product_attention and "attn_mask" in kwargs:
            self.seen.append(None if kwargs["attn_mask"] is None else tuple(kwargs["attn_mask"].shape))
        return function(*args, **kwargs)


@torch.no_grad()
def test_attention_has_a_mask_if_and_only_if_pads_are_stated(either):
    model = load(either, attn_implementation="sdpa")
    unpadded, padded = batch_of(either, TASKS[1:2] * 3, prompt_multiple=1), batch_of(either, prompt_multiple=1)
    bins_BT = torch.arange(7).expand(3, 7)
    num_layers = model.config.llama.num_hidden_layers
    for batch, stated, has_mask in [
        (unpadded, False, False),
        (unpadded, True, True),
        (unpadded, None, False),
        (padded, True, True),
        (padded, None, True),
    ]:
        with _Masks() as masks:
            logits_BTV = model(**arguments(batch), padded=stated, bins_BT=bins_BT).logits_BTV
        assert len(masks.seen) == num_layers
        *others, last = (mask is not None for mask in masks.seen)
        assert set(others) <= {has_mask}
        # The last layer computes some positions only; which of the others those see, a causal model has to say.
        assert last == (has_mask or model.config.num_actions_chunk == 1)
        assert_close(logits_BTV, model(**arguments(batch), bins_BT=bins_BT).logits_BTV, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tasks", [TASKS, TASKS[1:2] * 3], ids=["padded", "unpadded"])
@pytest.mark.parametrize("route", ["eager", "sdpa"])
@torch.no_grad()
def test_nothing_is_looked_up_that_is_stated(either, route, tasks):
    """The meta device has no values: looking at one is an error there, and a wait on a GPU."""
    batch = batch_of(either, tasks, prompt_multiple=1).to("meta")
    model = load(either, attn_implementation=route).to("meta")
    given = vars(batch)
    outputs = [model(**given, bins_BT=torch.zeros(3, 7, dtype=torch.long, device="meta")).logits_BTV]
    outputs.append(oft_hidden_states(model, **given))
    if model.config.num_actions_chunk == 1:
        draws = {"uniforms_BT": np.zeros((3, 7)), "temperature": 1.0}
        outputs.append(model(**given, **draws, check_finite=False).logits_BTV)
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            model(**given, **draws)
    assert all(output.device.type == "meta" and len(output) == 3 for output in outputs)
    with pytest.raises(RuntimeError, match="meta"):
        model(**{**given, "padded": None})


@torch.no_grad()
def test_a_recording_runs_what_was_compiled_before_it(either, monkeypatch):
    """While a CUDA graph is recorded nothing can be compiled, and transformers builds masks in another way."""
    torch._dynamo.reset()
    model = load(either, attn_implementation="sdpa")
    for block in fsdp_units(model):
        block.compile(backend="eager")
    tasks = TASKS if model.config.num_actions_chunk == 1 else TASKS[1:2] * 3  # with pads and without
    given = {**vars(batch_of(either, tasks, prompt_multiple=1)), "bins_BT": torch.arange(7).expand(3, 7)}
    expected = model(**given).logits_BTV
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(model(**given).logits_BTV, expected)


@pytest.mark.parametrize("route", ["eager", "sdpa"])
@torch.no_grad()
def test_decoding_sees_no_pads(autoregressive_policy, route):
    """Tokens follow each other from a cache as they are scored at once, with and without pads."""
    model = load(autoregressive_policy, attn_implementation=route)
    for tasks in (TASKS, TASKS[1:2] * 3):
        given = vars(batch_of(autoregressive_policy, tasks, prompt_multiple=1))
        decoded = model(**given, uniforms_BT=np.random.default_rng(0).random((3, 7)), temperature=1.0)
        scored = model(**given, bins_BT=decoded.bins_BT)
        for name in ("logits_BTV", "hidden_BTH", "value_feature_BH"):
            assert_close(getattr(decoded, name), getattr(scored, name), rtol=0, atol=1e-5, msg=name)
        alone = model(**arguments(batch_of(autoregressive_policy, prompt_multiple=None)), bins_BT=decoded.bins_BT)
        if tasks == TASKS:
            assert_close(decoded.logits_BTV, alone.logits_BTV, rtol=0, atol=1e-5)


def test_a_multiple_never_exceeds_the_limit(either):
    processor = PrismaticProcessor.from_pretrained(either)
    longest = max(len(processor.prompt_ids(task)) for task in TASKS)
    processor.prompt_multiple = longest - 1
    assert processor.encode_prompts(TASKS)[0].shape[1] == min(2 * (longest - 1), processor.max_prompt_length)
    processor.max_prompt_length = longest + 1
    assert processor.encode_prompts(TASKS)[0].shape[1] == longest + 1
    with pytest.raises(ValueError, match="more than max_prompt_length=5"):
        PrismaticProcessor.from_pretrained(either, max_prompt_length=5, prompt_multiple=1).encode_prompts(TASKS)


@torch.no_grad()
def test_the_oft_layout_in_both_routes(either):
    hidden = [
        oft_hidden_states(load(either, attn_implementation=route), **inputs_of(either, prompt_multiple=multiple))
        for route in ("eager", "sdpa")
        for multiple in (None, 1)
    ]
    for other in hidden[1:]:
        assert_close(other, hidden[0], rtol=0, atol=1e-5)


def test_policies_leave_shared_pads_out(either):
    policy = read_policy(either)
    assert policy.processor.prompt_multiple == 1
    source = PolicySource(either, unnorm_key="libero_spatial", seed=3, cuda_graphs=True)
    assert load_policy(model_config(either), source, base_dtype=torch.float32).processor.prompt_multiple == 8


def test_the_route_is_chosen_once(monkeypatch):
    assert choose_attention(None, dtype=torch.bfloat16) == "sdpa" or torch.cuda.is_available()
    monkeypatch.setattr(language, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_attention(None, dtype=torch.bfloat16) == "flash_attention_2"
    assert choose_attention(None, dtype=torch.float32) == "sdpa"
    assert choose_attention("eager", dtype=torch.bfloat16) == "eager"
    with pytest.raises(ValueError, match="16 bits"):
        choose_attention("flash_attention_2", dtype=torch.float32)
    monkeypatch.setattr(language, "is_flash_attn_2_available", lambda: False)
    with pytest.raises(ValueError, match="install it, or choose sdpa"):
        choose_attention("flash_attention_2", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="sdpa, flash_attention_2, eager"):
        choose_attention("paged", dtype=torch.bfloat16)


def test_the_configuration_chooses_the_route(either):
    policy = read_policy(either, attn_implementation="eager")
    assert policy.module.get_base_model().language_model.config._attn_implementation == "eager"
    flash = replace(model_config(either), attn_implementation="flash_attention_2")
    source = PolicySource(either, unnorm_key="libero_spatial", seed=3)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"actor\.model\.attn_implementation=flash_attention_2.*flash-attn"):
            load_policy(flash, source, base_dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match=r"rollout\.cuda_graphs"):
        load_policy(flash, replace(source, cuda_graphs=True), base_dtype=torch.bfloat16)


def test_validation_knows_what_the_model_knows():
    assert CONFIG_PICTURES == PICTURE_PATHS
    assert CONFIG_ROUTES == ATTENTION_ROUTES
    assert CONFIG_POLICIES == CHECKPOINTING_POLICIES
