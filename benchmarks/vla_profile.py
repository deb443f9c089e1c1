"""Which operations of a step take the device's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # documented there, not in its __all__
from torch.profiler import ProfilerActivity, profile

NAME_WIDTH = 90


@dataclass(frozen=True)
class Operation:
    """A kernel or a copy on a GPU, an operator on a CPU. share: of what all operations of the step take, 0 to 1."""

    name: str
    calls: int
    seconds: float
    share: float


def slowest(step: Callable[[], object], device: torch.device, *, count: int = 10) -> list[Operation]:
    """The operations that take the most time in one step, which should not be the first."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    taken = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
        if event.device_type == wanted and not event.is_user_annotation
    ]
    total = sum(microseconds for microseconds, _, _ in taken) or 1.0
    return [
        Operation(name, calls, microseconds / 1e6, microseconds / total)
        for microseconds, calls, name in sorted(taken, reverse=True)[:count]
    ]


def table(operations: list[Operation]) -> str:
    """Indented lines, one operation each."""
    lines = [f"    {'ms':>9} {'share':>6} {'calls':>6}  operation"]
    for operation in operations:
        name = operation.name if len(operation.name) <= NAME_WIDTH else f"{operation.name[: NAME_WIDTH - 3]}..."
        lines.append(
            f"    {1e3 * operation.seconds:9.3f} {100 * operation.share:5.1f}% {operation.calls:6d}  {name.strip()}"
        )
    return "\n".join(lines)
