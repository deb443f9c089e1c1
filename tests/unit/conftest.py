"""Fixtures that several files share: demonstrations, a policy trained on them, which no test changes, and FSDP2."""

from contextlib import contextmanager

import pytest
import torch
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

from tests.unit.finetuning.sft_demos import write_suite
from tests.unit.finetuning.sft_runs import run


@contextmanager
def on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread():
    """The order of sums, so the last bits, depend on the number of threads."""
    with on_one_thread():
        yield


@pytest.fixture(scope="session")
def demos(tmp_path_factory):
    """Recorded episodes of two tasks."""
    return write_suite(tmp_path_factory.mktemp("demos"), num_demos=3, num_steps=10, size=32)


@pytest.fixture(scope="session")
def base(demos, tmp_path_factory):
    """A small policy that was trained on them for a step."""
    folder = tmp_path_factory.mktemp("base") / "policy"
    with on_one_thread():
        assert run(demos, folder, "--steps", "1", "--save-dtype", "float32") == 0
    return folder


@pytest.fixture
def mesh(tmp_path):
    """A group of one rank."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.fixture
def collected(monkeypatch):
    """Names of the modules whose weights FSDP2 collected, one entry each time."""
    calls = []
    unshard = FSDPParamGroup.unshard

    def counted(group, async_op=False):
        if group.is_sharded:
            calls.append(group._module_fqn)
        return unshard(group, async_op)

    monkeypatch.setattr(FSDPParamGroup, "unshard", counted)
    return calls
