"""Options that would change nothing are refused, with the reason."""

import json

import pytest

from openvla_oft import pack
from tests.unit.sft_runs import run


@pytest.fixture(scope="module")
def adapter(demos, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "policy"
    assert run(demos, folder, "--init", str(base), "--lora-rank", "2", "--steps", "1") == 0
    return folder


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--llm-layers", "6"], "--llm-layers would have no effect: the sizes are those of the --init checkpoint"),
        (["--image-size", "32", "--towers", "siglip"], "--image-size, --towers would have no effect"),
        (["--max-prompt-length", "32"], "--max-prompt-length would have no effect"),
        (["--lora-alpha", "4"], "--lora-alpha would have no effect: there is no --lora-rank"),
        (["--merge"], "--merge would have no effect: there is no --lora-rank"),
        (["--lora-rank", "2", "--lora-path", "ADAPTER", "--lora-alpha", "2"], "--lora-path has its own"),
        (["--lora-rank", "2", "--lora-path", "ADAPTER", "--lora-dropout", "0.1"], "--lora-path has its own"),
        (["--lora-rank", "2", "--save-dtype", "float16"], "--save-dtype would have no effect"),
        (["--no-augment", "--shift", "1"], "--shift would have no effect: --no-augment"),
        (["--objective", "l1", "--label-sigma", "1"], "--label-sigma would have no effect"),
        (["--unnorm-key", "libero_spatial", "--action-bounds", "unit"], "--action-bounds would have no effect"),
        (["--action-bounds", "symmetric"], "the checkpoint has statistics of libero_spatial, which are kept"),
    ],
)
def test_with_a_checkpoint(demos, base, adapter, tmp_path, capsys, extra, message):
    words = [str(adapter) if word == "ADAPTER" else word for word in extra]
    assert run(demos, tmp_path / "policy", "--init", str(base), "--steps", "1", *words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_has_an_effect_is_taken(demos, base, adapter, tmp_path):
    whole = ["--steps", "1", "--lora-rank", "2", "--lora-path", str(adapter), "--merge", "--save-dtype", "float16"]
    assert run(demos, tmp_path / "merged", "--init", str(base), *whole) == 0


def test_the_labels_of_a_pack(demos, tmp_path, capsys):
    words = ["--demonstrations", demos, "--output", tmp_path / "packed", "--image-size", 32, "--num-workers", 0]
    assert pack.main([str(word) for word in words]) == 0
    assert run(tmp_path / "packed", tmp_path / "policy", "--steps", "1", "--action-key", "nonsense") == 2
    assert "was packed with --action-key actions, but nonsense is asked for" in capsys.readouterr().err
    file = tmp_path / "packed" / "pack.json"
    description = json.loads(file.read_text())
    assert description.pop("action_key") == "actions"
    file.write_text(json.dumps(description))  # as packed before the key was noted
    assert run(tmp_path / "packed", tmp_path / "policy", "--steps", "1") == 0
