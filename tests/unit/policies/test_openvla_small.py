"""A fresh small checkpoint: saving, precision, masks, gradients, LoRA, checkpointing, sharding, prompts."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoTokenizer

from transformers_openvla_oft import (
    ActionTokenMap,
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    PolicyBatch,
    PrismaticProcessor,
    SmallSizes,
    TowerSizes,
    create_small_checkpoint,
)
from transformers_openvla_oft.small import DINOV2, SIGLIP, libero_sentences

TASKS = ["Pick up the black bowl", "open the middle drawer of the cabinet and put the bowl in it"]


def tower(timm_id):
    return TowerSizes(timm_id=timm_id, embed_dim=16, depth=1, num_heads=2)


TINY = SmallSizes(
    image_size=32,
    towers=(tower(DINOV2), tower(SIGLIP)),
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    intermediate_size=48,
    num_images=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "checkpoint"
    create_small_checkpoint(path, sizes=TINY, seed=3)
    return path


@pytest.fixture
def model(folder):
    return OpenVLAForActionPrediction.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def batch(folder):
    images = torch.randint(0, 256, (2, 2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return PrismaticProcessor.from_pretrained(folder)(images, TASKS)


def run(model, batch):
    return model(**vars(batch))


def is_unused(name):
    """Weights that published checkpoints hold although nothing reads them: last ViT block and final norm."""
    return ".blocks.1." in name or "featurizer.norm." in name


def test_creation_is_reproducible(folder, tmp_path):
    create_small_checkpoint(tmp_path, sizes=TINY, seed=3)
    for file in sorted(folder.iterdir()):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
    create_small_checkpoint(tmp_path, sizes=TINY, seed=4)
    assert (tmp_path / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()


@torch.no_grad()
def test_bfloat16(folder, model, batch, tmp_path):
    create_small_checkpoint(tmp_path, sizes=TINY, seed=3, dtype=torch.bfloat16)
    half = OpenVLAForActionPrediction.from_pretrained(tmp_path).eval()
    assert half.dtype == torch.bfloat16
    expected, actual = run(model, batch), run(half, batch)
    assert actual.logits_BTV.dtype == torch.float32
    assert actual.hidden_BTH.dtype == torch.bfloat16
    assert_close(actual.logits_BTV, expected.logits_BTV, rtol=0, atol=0.05)
    as_float = OpenVLAForActionPrediction.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert_close(run(as_float, batch).logits_BTV, expected.logits_BTV, rtol=0, atol=0.05)


@torch.no_grad()
def test_pads_do_not_matter(model, batch):
    """What stands in a pad slot; a visible token does matter. How many there are: test_openvla_attention.py."""
    expected = run(model, batch).logits_BTV
    pads = batch.attention_mask_BL == 0
    assert pads.any()
    other = PolicyBatch(batch.input_ids_BL.masked_fill(pads, 300), batch.attention_mask_BL, batch.pixel_values)
    assert_close(run(model, other).logits_BTV, expected, rtol=0, atol=1e-6)

    changed = batch.input_ids_BL.clone()
    changed[:, -3] = 300
    changed_logits = run(model, PolicyBatch(changed, batch.attention_mask_BL, batch.pixel_values)).logits_BTV
    assert (changed_logits - expected).abs().max() > 1e-3


@torch.no_grad()
def test_attention_is_bidirectional(model, batch):
    """The logits of the first action token change with the number of placeholders after it."""
    expected = run(model, batch).logits_BTV[:, 0]
    model.config.num_actions_chunk = 4
    assert (run(model, batch).logits_BTV[:, 0] - expected).abs().max() > 1e-4


@torch.no_grad()
def test_both_pictures_and_both_towers_are_read(model, batch):
    expected = run(model, batch).logits_BTV
    for channels in (slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12)):
        pixel_values = batch.pixel_values.clone()
        pixel_values[:, channels] = pixel_values[:, channels].flip(-1)
        output = run(model, PolicyBatch(batch.input_ids_BL, batch.attention_mask_BL, pixel_values))
        assert (output.logits_BTV - expected).abs().max() > 1e-4, channels


def test_gradients_reach_every_weight_in_use(model, batch):
    run(model, batch).logits_BTV.pow(2).mean().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {name for name, _ in model.named_parameters() if is_unused(name)}


def test_compiles_without_graph_breaks(model, batch):
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert_close(run(compiled, batch).logits_BTV, run(model, batch).logits_BTV, rtol=0, atol=1e-5)


def test_dataset_statistics_beside_the_configuration_win(folder, tmp_path):
    config = OpenVLAConfig.from_pretrained(folder)
    config.norm_stats = {"a": {"action": {"q01": [0.0] * 7, "q99": [1.0] * 7}}, "b": {}}
    config.save_pretrained(tmp_path)
    merged = {"a": {"action": {"q01": [-1.0] * 7, "q99": [1.0] * 7}}}
    (tmp_path / "dataset_statistics.json").write_text(json.dumps(merged))
    again = OpenVLAConfig.from_pretrained(tmp_path)
    assert set(again.norm_stats) == {"a", "b"}
    assert ActionTokenMap.from_config(again, "a").low_A == (-1.0,) * 7


def test_every_libero_prompt_fits(folder):
    processor = PrismaticProcessor.from_pretrained(folder)
    lengths = [len(processor.prompt_ids(sentence)) for sentence in libero_sentences()]
    assert max(lengths) <= SmallSizes().max_prompt_length < max(lengths) + 4
    assert 20 <= sum(lengths) / len(lengths) <= 30


def test_prompt_layout(folder):
    processor = PrismaticProcessor.from_pretrained(folder)
    ids, mask = processor.encode_prompts(TASKS)
    tokenizer = processor.tokenizer
    assert ids.shape == (2, SmallSizes().max_prompt_length)
    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    assert (ids[:, -1] == processor.prompt_end_token_id).all()
    assert torch.equal(ids == tokenizer.pad_token_id, mask == 0)
    assert mask[:, 1:].diff(dim=1).min() >= 0, "pads must come first"
    text = tokenizer.decode(ids[0][mask[0] == 1], skip_special_tokens=True)
    assert text == "In: What action should the robot take to pick up the black bowl?\nOut: "


def test_resized_pictures_give_the_same_pixel_values(folder):
    """A rollout may keep the small uint8 images; a bright edge makes bicubic overshoot the range of uint8."""
    processor = PrismaticProcessor.from_pretrained(folder)
    images = torch.zeros(1, 2, 64, 64, 3, dtype=torch.uint8)
    images[:, :, 20:45, 11:] = 255
    small = processor.resize(images)
    assert small.shape == (1, 2, 32, 32, 3)
    assert small.dtype == torch.uint8
    assert torch.equal(processor.resize(small), small)
    assert torch.equal(processor.pixel_values(small), processor.pixel_values(images))
    lit = processor.pixel_values(images).view(1, 2, 2, 3, 32, 32)[..., 16, 20]
    assert_close(lit[:, :, 1], torch.ones(1, 2, 3))  # white, in SigLIP's normalisation


def test_any_english_prompt_has_tokens(folder):
    tokenizer = PrismaticProcessor.from_pretrained(folder).tokenizer
    sentence = "Grab Zoë's “quartz” jug, quickly: 3 times!"
    ids = tokenizer(sentence)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == sentence


def test_vocabulary_layout(folder):
    """As in Llama-2: specials first, action tokens last, PAD right after the vocabulary."""
    config, tokenizer = OpenVLAConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token_id == config.pad_token_id == config.vocabulary_size == len(tokenizer) - 1
    assert tokenizer.convert_ids_to_tokens(config.action_token_begin) == "<action_0>"
    assert tokenizer.convert_ids_to_tokens(config.action_token_end - 1) == "<action_255>"


def test_user_errors_name_the_numbers(folder):
    processor = PrismaticProcessor.from_pretrained(folder)
    images = torch.zeros(2, 2, 64, 64, 3)
    with pytest.raises(ValueError, match="2 image"):
        processor.pixel_values(images[:, :1].byte())
    with pytest.raises(ValueError, match="as many tasks"):
        processor(images.byte(), ["one"])


def test_shipped_size():
    """The default small policy stays under 30 MB in 16 bits."""
    with torch.device("meta"):
        model = OpenVLAForActionPrediction(SmallSizes().config())
    assert 10e6 < sum(p.numel() for p in model.parameters()) < 14e6
