"""The fine-tuning command as a rank, which may die while it does the work of a step."""

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from openvla_oft import finetune
from openvla_oft.torch_utils.distributed import end_process
from openvla_oft.train import optimisation
from tests.distributed.ranks import write_to


def rank_of_two(rank: int, port: int, stop: int, words: Sequence[str], log: Path) -> None:
    """What torchrun starts. stop: the step to die in, or -1."""
    write_to(log)
    number = str(rank)
    os.environ |= {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    update = optimisation.WeightAverage.update

    def dying(self: optimisation.WeightAverage, step: int) -> None:
        if step == stop:
            os._exit(9)
        update(self, step)

    optimisation.WeightAverage.update = dying  # type: ignore[method-assign]
    compile_module = nn.Module.compile

    def traced(module: nn.Module, options: object) -> None:
        """Compiled up to what is written for the processor: a minute's work of a C++ compiler, the same on any rank,
        which tests/unit/model/test_openvla_blocks.py has done."""
        compile_module(module, backend="aot_eager")

    nn.Module.compile = traced  # type: ignore[method-assign]
    end_process(finetune.main(words))
