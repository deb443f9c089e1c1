"""What the simulator's first import writes to the terminal."""

import os
import subprocess
import sys

BUILD = """
from libero_runtime.sim.models import build_env
from libero_runtime.suites import load_suite

build_env(load_suite("libero_spatial").task(0), quality="fast")
compile(r"drawing = '\\ '", "/home/user/robosuite_tasks/__init__.py", "exec")
"""


def test_robosuite_compiles_without_a_word_and_other_files_do_not(tmp_path):
    """As after an installation without byte-compilation. Python says it as DeprecationWarning before 3.12."""
    env = dict(os.environ, PYTHONPYCACHEPREFIX=str(tmp_path))
    wanted = ["-W", "always::SyntaxWarning", "-W", "always::DeprecationWarning"]
    done = subprocess.run([sys.executable, *wanted, "-c", BUILD], env=env, check=True, capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if "invalid escape sequence" in line]
    assert [line.partition(":")[0] for line in told] == ["/home/user/robosuite_tasks/__init__.py"]
