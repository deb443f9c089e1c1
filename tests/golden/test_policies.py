"""Policies act and learn as before: fresh checkpoints with random weights, two updates, two tasks of a method.

Numbers are compared with ``values.json``, within what another machine's arithmetic changes. To the bit, on one machine:
record the hashes of one commit, then compare those of another with them::

    GOLDEN_RECORD=/tmp/golden.json python -m pytest -q tests/golden     # before
    GOLDEN_COMPARE=/tmp/golden.json python -m pytest -q tests/golden    # after
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden import golden, subjects


@pytest.fixture(autouse=True)
def one_thread():
    """Sums depend on how many threads share them."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: subjects.write_checkpoint(name, folder) for name in subjects.POLICIES}


@pytest.mark.parametrize("temperature", [1.6, 0.0])
@pytest.mark.parametrize("name", subjects.POLICIES)
def test_what_a_policy_does(checkpoints, name, temperature):
    acted = subjects.act(subjects.load(name, checkpoints[name]), temperature=temperature)
    title = f"act/{name}/{temperature}"
    golden.check_exact(title, acted)
    golden.check_values(title, {key: golden.sketch(array) for key, array in acted.items()})


@pytest.mark.parametrize("algorithm", subjects.ALGORITHMS)
@pytest.mark.parametrize("name", subjects.POLICIES)
def test_two_updates(checkpoints, tmp_path, name, algorithm):
    policy = subjects.load(name, checkpoints[name], critic=algorithm == "ppo")
    _check(f"updates/{name}/{algorithm}", subjects.update_twice(policy, tmp_path, algorithm=algorithm))


@pytest.mark.parametrize("method", subjects.METHODS)
@pytest.mark.parametrize("name", ["openvla_oft", "simple_cnn"])
def test_two_updates_of_a_method(checkpoints, tmp_path, name, method):
    _check(f"updates/{name}/{method}", subjects.learn_two_tasks(name, checkpoints[name], tmp_path, method=method))


def _check(title: str, updates: subjects.Updates) -> None:
    metrics = {
        f"{name} {number}": value for number, one in enumerate(updates.metrics, start=1) for name, value in one.items()
    }
    before = {f"before/{key}": array for key, array in updates.before.items()}
    golden.check_exact(title, before | updates.after | {key: np.array(value) for key, value in metrics.items()})
    shared = sorted(updates.before.keys() & updates.after.keys())
    changes = [updates.after[key] - updates.before[key] for key in shared if updates.after[key].dtype == np.float32]
    sketches = {
        "change": golden.sketch(np.concatenate([change.ravel() for change in changes])),
        "after": golden.sketch(np.concatenate([updates.after[key].ravel() for key in sorted(updates.after)])),
    }
    golden.check_values(title, metrics | sketches)
