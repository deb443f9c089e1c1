"""What the simulator's first import writes to the terminal."""

import subprocess
import sys

BUILD = """
import sys
import matplotlib.cm, numba, scipy.spatial
from libero_runtime.sim.models import build_env
from libero_runtime.suites import load_suite

sys.pycache_prefix = sys.argv[1]
build_env(load_suite("libero_spatial").task(0), quality="fast")
compile(r"drawing = '\\ '", "/home/user/robosuite_tasks/__init__.py", "exec")
"""


def test_robosuite_compiles_without_a_word_and_other_files_do_not(tmp_path):
    """As after an installation without byte-compilation. Python says it as DeprecationWarning before 3.12."""
    wanted = ["-W", "always::SyntaxWarning", "-W", "always::DeprecationWarning"]
    command = [sys.executable, *wanted, "-c", BUILD, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if "invalid escape sequence" in line]
    assert [line.partition(":")[0] for line in told] == ["/home/user/robosuite_tasks/__init__.py"]
