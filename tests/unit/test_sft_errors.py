"""Wrong options and damaged files: one message that names the option or the file, exit code 2, and nothing left."""

import json
from pathlib import Path

import pytest

from openvla_oft import pack
from openvla_oft.train import optimisation
from tests.unit.sft_runs import run

STEP = ["--steps", "1"]


@pytest.fixture(scope="module")
def packed(demos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "packed"
    assert packing(demos, folder) == 0
    return folder


def packing(demos, output, *extra):
    command = ["--demonstrations", demos, "--output", output, "--image-size", 32, "--num-workers", 0, *extra]
    return pack.main([str(word) for word in command])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--device", "foo"], "--device foo: expected cpu, cuda or cuda:<number>"),
        (["--device", "meta"], "--device meta: expected cpu, cuda or cuda:<number>"),
        (["--llm-heads", "3"], "--llm-hidden 32 does not divide into --llm-heads 3 heads of an even size"),
        (["--llm-heads", "32"], "--llm-heads 32 heads of an even size"),
        (["--vit-heads", "3"], "--vit-dim 16 does not divide into --vit-heads 3 heads"),
        (["--actions-per-chunk", "0"], "--actions-per-chunk 0 must be at least 1"),
        (["--llm-layers", "0"], "--llm-layers 0 must be at least 1"),
        (["--patch-size", "-16"], "--patch-size -16 must be at least 1"),
        (["--seed", "-1"], "--seed -1 must not be negative"),
        (["--lr", "inf"], "--lr inf must be a finite number"),
        (["--label-sigma", "nan"], "--label-sigma nan must be a finite number"),
        (["--num-workers", "-1"], "--num-workers -1 must not be negative"),
    ],
)
def test_wrong_options_are_named(demos, tmp_path, capsys, extra, message):
    assert run(demos, tmp_path / "policy", *STEP, *extra) == 2
    error = capsys.readouterr().err
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_made_is_named(demos, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file" / "x", Path("/proc/x/y")):
        assert run(demos, output, *STEP) == 2
        assert f"--output {output} cannot be made" in capsys.readouterr().err
        assert packing(demos, output) == 2
        assert f"--output {output} cannot be made" in capsys.readouterr().err
    assert run(demos, tmp_path / "file", *STEP, "--overwrite") == 2
    assert "is not a folder that could be replaced" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def without(name):
    return lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("suite"), "lacks suite"),
        (without("cameras"), "lacks cameras"),
        (without("languages"), "lacks languages"),
        (without("version"), "version None, expected 1; pack again"),
        (lambda text: text[:20], "cannot be read as JSON"),
        (lambda _: "[1]", "holds list, expected a JSON object"),
    ],
)
def test_a_damaged_pack_is_named(packed, tmp_path, capsys, change, message):
    file = packed / "pack.json"
    text = file.read_text()
    try:
        file.write_text(change(text))
        assert run(packed, tmp_path / "policy", *STEP) == 2
    finally:
        file.write_text(text)
    error = capsys.readouterr().err
    assert f"error: {file}" in error
    assert message in error


@pytest.mark.parametrize("file", ["progress.json", ".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("damage", ["cut", "removed", "empty", "zeros"])
def test_a_damaged_state_is_named_and_kept(demos, tmp_path, monkeypatch, capsys, file, damage):
    settings = ["--steps", "4", "--save-every", "2"]
    update = optimisation.WeightAverage.update
    with monkeypatch.context() as patch:
        patch.setattr(optimisation.WeightAverage, "update", lambda self, n: update(self, n) if n < 3 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(demos, tmp_path / "policy", *settings)
    state = tmp_path / "policy.unfinished" / "state" / "step_2"
    path = state / file
    whole = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "zeros": bytes(len(whole))}[damage])
    assert run(demos, tmp_path / "policy", *settings) == 2
    error = capsys.readouterr().err
    assert f"the stored state {state} is damaged" in error
    assert f"remove {tmp_path / 'policy.unfinished'} to train from the start" in error
    path.write_bytes(whole)
    assert run(demos, tmp_path / "policy", *settings) == 0, "nothing else was touched"
