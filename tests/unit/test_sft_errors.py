"""Wrong options and damaged files: one message that names the option or the file, exit code 2, and nothing left."""

import json

import pytest

from openvla_oft import pack
from tests.unit.sft_runs import run, stop_at

STEP = ["--steps", "1"]


@pytest.fixture(scope="module")
def packed(demos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "packed"
    assert packing(demos, folder) == 0
    return folder


def packing(demos, output, *extra):
    command = ["--demonstrations", demos, "--output", output, "--image-size", 32, "--num-workers", 0, *extra]
    return pack.main([str(word) for word in command])


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
    with monkeypatch.context() as patch:
        stop_at(patch, 3, ZeroDivisionError)
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


def test_the_labels_of_a_pack(demos, tmp_path, capsys):
    assert packing(demos, tmp_path / "packed") == 0
    assert run(tmp_path / "packed", tmp_path / "policy", "--steps", "1", "--action-key", "nonsense") == 2
    assert "was packed with --action-key actions, but nonsense is asked for" in capsys.readouterr().err
    file = tmp_path / "packed" / "pack.json"
    description = json.loads(file.read_text())
    assert description.pop("action_key") == "actions"
    file.write_text(json.dumps(description))  # as packed before the key was noted
    assert run(tmp_path / "packed", tmp_path / "policy", "--steps", "1") == 0
