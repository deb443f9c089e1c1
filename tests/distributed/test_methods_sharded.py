"""Continual-learning methods over two gloo ranks equal one process without sharding."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rlinf.run_layout import METHOD_STATE
from tests.distributed.method_ranks import CONFIGS
from tests.distributed.ranks import run_ranks
from tests.small_policy import write_policy


def _learn(world_size: int, checkpoint: Path, output: Path) -> list[dict[str, np.ndarray]]:
    output.mkdir()
    run_ranks("method_ranks", world_size, [checkpoint, output])
    return [dict(np.load(output / f"rank_{rank}.npz")) for rank in range(world_size)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    checkpoint = write_policy(folder / "small")
    return folder, _learn(1, checkpoint, folder / "one")[0], _learn(2, checkpoint, folder / "two")


def _of(results: dict[str, np.ndarray], method: str, what: str) -> dict[str, np.ndarray]:
    start = f"{method}:{what}:"
    return {key.removeprefix(start): value for key, value in results.items() if key.startswith(start)}


@pytest.mark.parametrize("method", CONFIGS)
def test_two_shards_learn_what_one_process_learns(runs, method):
    _, one, two = runs
    for name, value in _of(one, method, "weight").items():
        np.testing.assert_allclose(_of(two[0], method, "weight")[name], value, atol=2e-5, err_msg=name)
        np.testing.assert_array_equal(_of(two[0], method, "weight")[name], _of(two[1], method, "weight")[name])
    for name, value in _of(one, method, "metric").items():
        np.testing.assert_allclose(_of(two[0], method, "metric")[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", [name for name in CONFIGS if name != "sequential"])
def test_every_method_does_something(runs, method):
    _, one, _ = runs
    plain = _of(one, "sequential", "weight")
    gap = max(float(np.abs(value - plain[name]).max()) for name, value in _of(one, method, "weight").items())
    assert gap > 2e-4, "more than the tolerance of the comparison of shards"


@pytest.mark.parametrize("method", ["ewc", "ewc-published", "agem", "lwf"])
def test_two_shards_store_what_one_process_stores(runs, method):
    folder, _, _ = runs
    for task in ("0", "1"):
        one, two = (load_file(folder / run / method / task / METHOD_STATE) for run in ("one", "two"))
        assert one.keys() == two.keys()
        for name, value in one.items():
            atol = 2e-5 if name.startswith(("anchor.", "previous.")) else 0
            scale = float(np.abs(value).max()) * 1e-3 if name.startswith("fisher.") else 0
            np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=atol + scale, err_msg=name)
