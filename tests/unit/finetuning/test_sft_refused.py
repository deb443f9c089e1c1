"""Commands that are refused: one message that names the option, with the reason, exit code 2, and nothing left."""

import pytest

from openvla_oft.options import TrainConfig
from tests.unit.finetuning.sft_runs import packing, run

CROPS = ["--pictures", "oft_random_crop"]
OFT = ["--layout", "oft"]
LORA = ["--init", "BASE", "--lora-rank", "4"]

FRESH = [
    (["--steps", "0"], "--steps 0 must be larger than 0"),
    (["--lr", "-1"], "--lr -1.0 must be larger than 0"),
    (["--lr", "inf"], "--lr inf must be a finite number"),
    (["--label-sigma", "nan"], "--label-sigma nan must be a finite number"),
    (["--seed", "-1"], "--seed -1 must be at least 0"),
    (["--validation-fraction", "1"], "--validation-fraction 1.0 must be smaller than 1"),
    (["--ema", "1"], "--ema 1.0 must be smaller than 1"),
    ([*LORA, "--lora-dropout", "1"], "--lora-dropout 1.0 must be smaller than 1"),
    (["--contrast", "1"], "brightness, contrast and colour are relative and must be below 1"),
    (["--minutes", "1e-6"], "--minutes 1e-06 are over after the first step"),
    (["--micro-batch-size", "3"], "--batch-size 8 must be a multiple"),
    (["--device", "foo"], "--device foo: expected cpu, cuda or cuda:<number>"),
    (["--init", "nowhere"], "--init nowhere: no config.json"),
    (["--demonstrations", "nowhere"], "demonstrations folder nowhere does not exist"),
    (["--cameras", "side"], "unknown camera 'side'"),
    (["--cameras", "agentview,agentview"], "--cameras agentview,agentview names a camera twice"),
    (["--towers", "clip"], "unknown ['clip']"),
    (["--image-size", "40"], "patch_size=16"),
    (["--llm-heads", "3"], "--llm-hidden 32 does not divide into --llm-heads 3 heads of an even size"),
    (["--vit-heads", "3"], "--vit-dim 16 does not divide into --vit-heads 3 heads"),
    (["--actions-per-chunk", "0"], "--actions-per-chunk 0 must be at least 1"),
    (["--proprio"], "--proprio needs --layout oft"),
    ([*OFT, "--label-sigma", "1"], "--label-sigma 1 needs --layout rl"),
    ([*OFT, "--actions-per-chunk", "1"], "decodes token by token"),
    (["--objective", "l1", "--actions-per-chunk", "1"], "decodes token by token"),
    (["--lora-rank", "4"], "--lora-rank needs a base that is stored"),
    (["--lora-alpha", "4"], "--lora-alpha would have no effect: there is no --lora-rank"),
    (["--no-augment", "--shift", "1"], "--shift would have no effect: --no-augment"),
    (["--hue", "0.1"], "--hue would have no effect: it is part of the augmentation of --pictures oft_random_crop"),
    ([*CROPS, "--shift", "1"], "--shift would have no effect: --pictures oft_random_crop has the OFT repository's"),
    ([*CROPS, "--no-augment", "--hue", "0.1"], "--hue would have no effect: --no-augment switches it off"),
    ([*CROPS, "--hue", "0.6"], "--hue 0.6 must be at most 0.5"),
]
STORED = [
    (["--init", "BASE", "--llm-layers", "6"], "--llm-layers would have no effect: the sizes are those of the --init"),
    (["--init", "BASE", "--image-size", "32", "--towers", "siglip"], "--image-size, --towers would have no effect"),
    (["--init", "BASE", "--max-prompt-length", "32"], "--max-prompt-length would have no effect"),
    (["--init", "BASE", "--merge"], "--merge would have no effect: there is no --lora-rank"),
    (["--init", "BASE", "--objective", "l1", "--label-sigma", "1"], "--label-sigma would have no effect"),
    (["--init", "BASE", "--action-bounds", "symmetric"], "the checkpoint has statistics of libero_spatial, which are"),
    (["--init", "BASE", "--unnorm-key", "libero_spatial", "--action-bounds", "unit"], "--action-bounds would have no"),
    (["--init", "BASE", "--unnorm-key", "bridge"], "no normalisation statistics for unnorm_key='bridge'"),
    (["--init", "BASE", "--actions-per-chunk", "1"], "num_actions_chunk=8, but --actions-per-chunk is 1; give 8"),
    ([*LORA, "--save-dtype", "float16"], "--save-dtype would have no effect"),
    ([*LORA, "--lora-rank", "0"], "--lora-rank 0 must be at least 1"),
    ([*LORA, "--lora-path", "nowhere"], "--lora-path nowhere: no adapter_config.json"),
    ([*LORA, "--lora-path", "ADAPTER"], "has rank 2, but --lora-rank 4"),
    ([*LORA, "--lora-path", "ADAPTER", "--lora-alpha", "2"], "--lora-path has its own"),
]


@pytest.fixture(scope="module")
def adapter(demos, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "policy"
    assert run(demos, folder, "--init", str(base), "--lora-rank", "2", "--steps", "1") == 0
    return folder


@pytest.mark.parametrize(("extra", "message"), [*FRESH, *STORED])
def test_the_option_is_named(demos, base, adapter, tmp_path, capsys, extra, message):
    places = {"BASE": str(base), "ADAPTER": str(adapter)}
    assert run(demos, tmp_path / "policy", "--steps", "1", *(places.get(word, word) for word in extra)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_a_training_is_asked_for(demos, tmp_path, capsys):
    assert run(demos, tmp_path / "policy") == 2
    assert "give --steps, --minutes, or both" in capsys.readouterr().err


def test_a_batch_that_two_processes_cannot_divide():
    config = TrainConfig(num_steps=1, batch_size=8, micro_batch_size=3)
    with pytest.raises(ValueError, match="--batch-size 8 must be a multiple of --micro-batch-size x processes = 3 x 2"):
        config.micro_batch(2)


def test_what_has_an_effect_is_taken(demos, base, adapter, tmp_path):
    whole = ["--steps", "1", "--lora-rank", "2", "--lora-path", str(adapter), "--merge", "--save-dtype", "float16"]
    assert run(demos, tmp_path / "merged", "--init", str(base), *whole) == 0


def test_an_output_that_cannot_be_made_is_named(demos, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for make in (lambda output: run(demos, output, "--steps", "1"), lambda output: packing(demos, output)):
        assert make(tmp_path / "file" / "x") == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {tmp_path / 'file'}")
        assert "; there is a file where a folder is expected: remove it, or name another path" in message
    assert run(demos, tmp_path / "file", "--steps", "1", "--overwrite") == 2
    assert "is not a folder that could be replaced" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
