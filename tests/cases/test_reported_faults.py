"""What went wrong for users of this and of related projects: shell scripts that end with 0 when all is right.

They are in a folder beside the repository, or where REPORTED_CASES says; without it there is nothing to run. Whole runs
each, hence no part of the other suites: `bash tests/run.sh tests/cases`. The same faults have tests of their own there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CASES = Path(os.environ.get("REPORTED_CASES", REPOSITORY.parent / "shared" / "cases"))
NAMES = sorted(script.parent.name for script in CASES.glob("*/case.sh"))
LIMIT_S = 1200

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not NAMES, reason=f"no cases in {CASES}; set REPORTED_CASES")]


@pytest.mark.parametrize("name", NAMES or ["none"])
def test_case(name, tmp_path):
    environment = {**os.environ, "REPO": str(REPOSITORY), "VIRTUAL_ENV": sys.prefix, "WORK": str(tmp_path)}
    script = CASES / name / "case.sh"
    done = subprocess.run(
        ["bash", str(script)], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
