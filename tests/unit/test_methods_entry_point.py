"""A method from outside the repository: installed as a package, found by its entry point, and trained with."""

import re
import subprocess
import sys
from copy import deepcopy
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlinf.config import ConfigError
from rlinf.config.schema import MethodConfig
from rlinf.custom import methods
from rlinf.custom.methods import TaskContext, make_method, method_names
from rlinf.custom.methods.state import gather_state, write_state
from rlinf.engines.fsdp import gather_trainable
from tests.small_policy import make_learner, make_rollouts, read_policy
from tests.toy_policy import ToyPolicy, toy_rollouts, toy_task

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


def test_it_holds_the_policy_near_its_start(on_path, small_policy, tmp_path):
    moved = {}
    for coeff in (0.0, 1e6):
        policy = read_policy(small_policy)
        method = make_method(MethodConfig(name="l2_start", options={"coeff": coeff}))
        learner = make_learner(policy, method, global_batch=4, micro_batch=8, weight_decay=0.0)
        start = deepcopy(gather_trainable(policy.module))  # on one process these are the weights themselves
        learner.method.on_task_start(TaskContext((0,), tmp_path), policy)
        learner.update(make_rollouts(), seed=0)
        end = gather_trainable(policy.module)
        moved[coeff] = sum(float(abs(end[name] - start[name]).sum()) for name in start)
    assert moved[1e6] < 0.6 * moved[0.0]


def test_the_method_of_the_page_is_complete(tmp_path):
    page = (EXAMPLE.parent / "adding_a_method.md").read_text()
    (source,) = re.findall(r"^# rlinf/custom/methods/l2\.py$.*?(?=^```)", page, flags=re.MULTILINE | re.DOTALL)
    known: dict[str, Any] = {}
    exec(source, known)
    config = MethodConfig(name="l2", options={"coeff": 0.5})
    policy, rollouts = ToyPolicy(torch.ones(1, 1, 2)), toy_rollouts(np.ones((1, 1, 1)))
    first, second = known["L2"](config), known["L2"](config)
    first.on_task_start(toy_task(0), policy)
    first.on_backward(policy)
    assert policy.module.w.grad is None, "nothing was learnt before"
    first.on_task_end(toy_task(0), policy, rollouts)
    write_state(tmp_path, gather_state(first.state_dict()))
    task = toy_task(1, learnt_before=(0,), previous=tmp_path)
    methods.check_tasks(task, method="l2")
    second.on_task_start(task, policy)
    with torch.no_grad():
        policy.module.w += 3
    second.on_backward(policy)
    assert policy.module.w.grad.tolist() == [3.0, 3.0]
