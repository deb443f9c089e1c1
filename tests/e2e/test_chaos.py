"""A tenth of the benchmark: faults in a run of two tasks change no bit of what is learnt, and nobody is asked."""

import pytest

from benchmarks import chaos
from tests.launchers import of_model

FAULTS = "SIGKILL of simulator,SIGKILL of driver"


@pytest.mark.slow
def test_faults_change_nothing(small_policy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chaos, "QUIET_S", (0.0, 2.0))
    words = ["--faults", "2", "--only", FAULTS, "--epochs", "2", "--out", str(tmp_path / "chaos")]
    assert chaos.main([*words, *of_model(small_policy)]) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    assert "adapters equal bit for bit: yes" in out
    assert all(f"{fault} " in out for fault in FAULTS.split(","))
    log = (tmp_path / "chaos" / "disturbed.log").read_text()
    assert "the run was killed by signal 9; it goes on from what was saved, restart 1 of 3" in log


def test_unknown_faults_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--only meteor: expected some of SIGKILL of simulator"):
        chaos.main(["--only", "meteor", "--out", str(tmp_path / "out")])
