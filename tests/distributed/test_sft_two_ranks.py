"""Fine-tuning in two gloo processes equals one process, with all weights and with an adapter, interrupted or not."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from rlinf.engines.distributed import free_port
from tests.distributed.ranks import REPOSITORY, run_together
from tests.distributed.sft_ranks import rank_of_two
from tests.unit.finetuning.sft_demos import write_suite
from tests.unit.finetuning.sft_runs import command, logged, run

SETTINGS = ["--steps", "4", "--save-every", "2", "--ema", "0.9", "--after-end", "mask"]
EXACT = ["--save-dtype", "float32"]


def torchrun(demos, output, *extra):
    """Of two processes, as published."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "openvla_oft.finetune", *command(demos, output, *SETTINGS, *extra)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def finetune(demos, output, *extra, stop=-1):
    """The same by processes that are forked; they die in a step that ``stop`` says."""
    logs, port = [output.parent / f"{rank}.log" for rank in range(2)], free_port()
    words = command(demos, output, *SETTINGS, *extra)
    are_done = run_together([(rank_of_two, (rank, port, stop, words, log)) for rank, log in enumerate(logs)])
    assert are_done == (stop < 0), "\n".join(log.read_text()[-4000:] for log in logs)


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("demos"), num_demos=3, num_steps=10, size=32)


@pytest.fixture(scope="module")
def one(demos, tmp_path_factory):
    output = tmp_path_factory.mktemp("one") / "policy"
    assert run(demos, output, *SETTINGS, *EXACT) == 0
    return output


def assert_same_weights(first, second, name):
    expected, found = load_file(first / name), load_file(second / name)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=2e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def assert_same_log(first, second):
    for name in ("train_loss", "grad_norm"):
        assert logged(second, name) == pytest.approx(logged(first, name), rel=1e-4)
    for mine, others in zip(logged(second, "validation"), logged(first, "validation"), strict=True):
        assert mine == pytest.approx(others, rel=1e-3)


def test_two_ranks_train_the_weights_of_one(demos, one, tmp_path):
    output = tmp_path / "policy"
    torchrun(demos, output, *EXACT)
    assert_same_weights(one, output, "model.safetensors")
    assert_same_log(one, output)
    assert json.loads((output / "training.json").read_text())["processes"] == 2
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in one.iterdir())


def test_two_ranks_that_died_go_on_as_one(demos, one, tmp_path):
    output = tmp_path / "policy"
    finetune(demos, output, *EXACT, stop=3)
    assert [path.name for path in (tmp_path / "policy.unfinished" / "state").iterdir()] == ["step_2"]
    assert run(demos, output, *SETTINGS, *EXACT) == 0
    assert json.loads((output / "training.json").read_text())["resumed_from_step"] == 2
    assert_same_weights(one, output, "model.safetensors")
    assert_same_log(one, output)


@pytest.fixture(scope="module")
def adapted(demos, one, tmp_path_factory):
    output = tmp_path_factory.mktemp("adapted") / "policy"
    assert run(demos, output, *SETTINGS, *adapter_of(one)) == 0
    return output


def adapter_of(base):
    return ["--init", base, "--lora-rank", "2", "--objective", "l1"]


def assert_same_adapter(first, second):
    for name in ("adapter_model.safetensors", "l1_action_head.safetensors"):
        assert_same_weights(first, second, name)
    assert_same_log(first, second)


@pytest.mark.slow
def test_two_ranks_train_the_adapter_and_head_of_one_compiled_and_checkpointed(demos, one, adapted, tmp_path):
    output = tmp_path / "policy"
    finetune(demos, output, *adapter_of(one), "--compile", "--gradient-checkpointing")
    assert json.loads((output / "training.json").read_text())["compiled"]
    assert_same_adapter(adapted, output)


def test_an_adapter_goes_on_with_its_base_sharded_or_whole(demos, one, adapted, tmp_path):
    output = tmp_path / "policy"
    finetune(demos, output, *adapter_of(one), "--micro-batch-size", "2", stop=3)
    finetune(demos, output, *adapter_of(one), "--shard-frozen")
    assert json.loads((output / "training.json").read_text())["resumed_from_step"] == 2
    assert_same_adapter(adapted, output)


def test_two_ranks_merge_the_adapter_of_one(demos, one, tmp_path):
    extra = ["--init", one, "--lora-rank", "2", "--merge", *EXACT]
    assert run(demos, tmp_path / "alone", *SETTINGS, *extra) == 0
    finetune(demos, tmp_path / "together", *extra)
    assert_same_weights(tmp_path / "alone", tmp_path / "together", "model.safetensors")
