"""A method from outside the repository: installed as a package, found by its entry point, and trained with."""

import subprocess
import sys
from copy import deepcopy
from importlib import invalidate_caches
from pathlib import Path

import pytest
import torch

from rlinf.config import ConfigError
from rlinf.config.schema import AlgorithmConfig, MethodConfig, OptimConfig
from rlinf.custom.methods import TaskContext, make_method, method_names
from rlinf.engines.fsdp import gather_trainable
from rlinf.engines.learner import PolicyLearner
from tests.small_policy import make_rollouts, read_policy, write_policy

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "example_method"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What ``pip install`` makes of the example, in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")  # building leaves files beside the source
    for name in ("pyproject.toml", "l2_start.py"):
        (source / name).write_text((EXAMPLE / name).read_text())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(folder), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def on_path(installed, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    invalidate_caches()


def test_it_is_offered_and_gets_its_settings(on_path):
    assert "l2_start" in method_names()
    method = make_method(MethodConfig(name="l2_start", options={"coeff": 0.5}))
    assert method.coeff == 0.5
    with pytest.raises(ConfigError, match="must be a number"):
        make_method(MethodConfig(name="l2_start", options={"coeff": "much"}))


def test_without_the_package_the_name_is_unknown():
    with pytest.raises(ConfigError, match=r"method\.name=l2_start is not known"):
        make_method(MethodConfig(name="l2_start"))


def test_what_is_no_method_is_refused(tmp_path, monkeypatch):
    (tmp_path / "wrong_method.py").write_text("def make(config):\n    return object()\n")
    info = tmp_path / "wrong_method-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-method\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[rlinf.methods]\nwrong = wrong_method:make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    with pytest.raises(ConfigError, match="made a object"):
        make_method(MethodConfig(name="wrong"))


def test_it_holds_the_policy_near_its_start(on_path, tmp_path):
    checkpoint = write_policy(tmp_path / "small")
    moved = {}
    for coeff in (0.0, 1e6):
        policy = read_policy(checkpoint)
        learner = PolicyLearner(
            policy,
            make_method(MethodConfig(name="l2_start", options={"coeff": coeff})),
            algorithm=AlgorithmConfig(),
            optim=OptimConfig(lr=1e-3, weight_decay=0.0),
            global_batch=4,
            micro_batch=8,
            device=torch.device("cpu"),
        )
        start = deepcopy(gather_trainable(policy.module))  # on one process these are the weights themselves
        learner.method.on_task_start(TaskContext((0,), tmp_path), policy)
        learner.update(make_rollouts(), seed=0)
        end = gather_trainable(policy.module)
        moved[coeff] = sum(float(abs(end[name] - start[name]).sum()) for name in start)
    assert moved[1e6] < 0.6 * moved[0.0]
