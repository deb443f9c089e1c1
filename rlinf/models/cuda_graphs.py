"""Forward passes replayed as CUDA graphs.

A small model on a large GPU spends its time on launching kernels, each from Python. A graph is recorded once per batch
size and launched as a whole.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from transformers_openvla_oft import ActionOutput, PolicyBatch

_NUM_WARMUPS = 2  # libraries set themselves up in the first calls, which must not be recorded


class _Key(NamedTuple):
    """What a recorded pass holds for: numbers that were constants in it."""

    num_rows: int
    num_slots: int  # of the prompts
    padded: bool  # whether attention has a mask
    scales: tuple[float, ...]  # of the adapter's layers


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: PolicyBatch
    output: ActionOutput


class GraphedForward:
    """A forward pass without gradients, recorded for batches of 1, 2, 4, 8, ... rows; other batches are filled up.

    Prompts of another length are another recording, and so are prompts with pads (as those count of which it is not
    known) and without: nothing that a recording does may depend on what is in its inputs.

    Weights may change in place between calls. ``module`` must be on a GPU, and stay there.
    """

    def __init__(self, module: nn.Module, forward: Callable[[PolicyBatch], ActionOutput]) -> None:
        self._layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
        self._forward = forward
        self._recorded: dict[_Key, _Recorded] = {}
        self._pool = torch.cuda.graph_pool_handle()

    @torch.no_grad()
    def __call__(self, batch: PolicyBatch) -> ActionOutput:
        """What ``forward`` gives for ``batch``, in tensors of their own."""
        num_rows = len(batch.input_ids_BL)
        num_recorded = 1 << (num_rows - 1).bit_length()
        scales = tuple(scale for layer in self._layers for scale in layer.scaling.values())
        key = _Key(num_recorded, batch.input_ids_BL.shape[1], batch.padded is not False, scales)
        if key not in self._recorded:
            self._recorded[key] = self._record(batch, key)
        recorded = self._recorded[key]
        for stored, given in zip(recorded.inputs.tensors(), batch.tensors(), strict=True):
            stored[:num_rows].copy_(given)
        recorded.graph.replay()
        rows = (None if tensor is None else tensor[:num_rows].clone() for tensor in recorded.output)
        return ActionOutput._make(rows)

    def _record(self, batch: PolicyBatch, key: _Key) -> _Recorded:
        """Rows beyond the batch repeat its last one: any real observation will do."""
        rows = torch.arange(key.num_rows, device=batch.input_ids_BL.device).clamp(max=len(batch.input_ids_BL) - 1)
        inputs = replace(batch.select(rows), padded=key.padded)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_NUM_WARMUPS):
                self._forward(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = self._forward(inputs)
        return _Recorded(graph, inputs, output)
