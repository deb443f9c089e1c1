"""The faults' benchmark. What it does, at a small size: test_runs.py."""

import pytest

from benchmarks import chaos


def test_unknown_faults_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--only meteor: expected some of SIGKILL of simulator"):
        chaos.main(["--only", "meteor", "--out", str(tmp_path / "out")])
