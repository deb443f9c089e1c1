"""A method from outside the repository: installed as a package, found by its entry point, and trained with."""

import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pytest
import torch

from rlinf.config import ConfigError
from rlinf.config.schema import MethodConfig
from rlinf.custom.methods import l2, make_method, method_names
from rlinf.custom.methods.parts.state import gather_state, write_state
from tests.toy_policy import ToyPolicy, toy_rollouts, toy_task

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "example_method"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What ``pip install`` makes of the example, in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")  # building leaves files beside the source
    for name in ("pyproject.toml", "online_l2.py"):
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
    assert "online_l2" in method_names()
    method = make_method(MethodConfig(name="online_l2", options={"coeff": 0.5}))
    assert method.coeff == 0.5
    with pytest.raises(ConfigError, match="must be a number"):
        make_method(MethodConfig(name="online_l2", options={"coeff": "much"}))


def test_without_the_package_the_name_is_unknown():
    with pytest.raises(ConfigError, match=r"method\.name=online_l2 is not known"):
        make_method(MethodConfig(name="online_l2"))


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


def test_it_holds_the_weights_near_those_of_the_task_before(on_path, tmp_path):
    config = MethodConfig(name="online_l2", options={"coeff": 0.5})
    policy, rollouts = ToyPolicy(torch.ones(1, 1, 2)), toy_rollouts(np.ones((1, 1, 1)))
    first, second = make_method(config), make_method(config)
    first.on_task_start(toy_task(0), policy)
    first.on_backward(policy)
    assert policy.module.w.grad is None, "nothing was learnt before"
    first.on_task_end(toy_task(0), policy, rollouts)
    write_state(tmp_path, gather_state(first.state_dict()))
    task = toy_task(1, learnt_before=(0,), previous=tmp_path)
    second.check(task)
    second.on_task_start(task, policy)
    with torch.no_grad():
        policy.module.w += 3
    second.on_backward(policy)
    assert policy.module.w.grad.tolist() == [3.0, 3.0]


def test_the_page_shows_the_method_that_is_there():
    page = (EXAMPLE.parent / "adding_a_method.md").read_text()
    assert f"# rlinf/custom/methods/l2.py\n{Path(l2.__file__).read_text()}```" in page
