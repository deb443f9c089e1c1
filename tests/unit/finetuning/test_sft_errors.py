"""Wrong options and damaged files: one message that names the option or the file, exit code 2, and nothing left."""

import pytest

from tests.unit.finetuning.sft_runs import packing, run, stop_at

STEP = ["--steps", "1"]


@pytest.fixture(scope="module")
def packed(demos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "packed"
    assert packing(demos, folder) == 0
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"version": 1', '"version": 0'), "version 0, expected 1; pack again"),
        (lambda text: text[:20], "pack.json: no JSON"),
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
    assert str(packed) in error
    assert message in error


@pytest.mark.parametrize(
    ("file", "damage"),
    [("progress.json", "cut"), ("progress.json", "removed"), (".metadata", "cut"), ("__0_0.distcp", "zeros")],
)
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
        path.write_bytes({"cut": whole[: len(whole) // 2], "zeros": bytes(len(whole))}[damage])
    assert run(demos, tmp_path / "policy", *settings) == 2
    error = capsys.readouterr().err
    assert f"the stored state {state} is damaged" in error
    assert f"remove {tmp_path / 'policy.unfinished'} to train from the start" in error
    path.write_bytes(whole)
    assert run(demos, tmp_path / "policy", *settings) == 0, "nothing else was touched"
