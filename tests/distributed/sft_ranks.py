"""The fine-tuning command in a process that dies while it does the work of step STOP (first argument; -1: never)."""

import os
import sys

from openvla_oft import finetune
from openvla_oft.torch_utils.distributed import end_process
from openvla_oft.train import optimisation


def main() -> None:
    stop = int(sys.argv.pop(1))
    update = optimisation.WeightAverage.update

    def dying(self: optimisation.WeightAverage, step: int) -> None:
        if step == stop:
            os._exit(9)
        update(self, step)

    optimisation.WeightAverage.update = dying  # type: ignore[method-assign]
    end_process(finetune.main())


if __name__ == "__main__":
    main()
