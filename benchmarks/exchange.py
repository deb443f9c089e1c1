"""What the ranks of an update exchange, how long it takes and how much of it computation hides: one rank per GPU.

    python benchmarks/exchange.py --ranks 2                                # the 7B's shape, on a machine with two GPUs
    python benchmarks/exchange.py --ranks 2 --sharded trained all --json FILE
    python benchmarks/exchange.py --ranks 2 --tiny                         # small, over gloo on a CPU: does it run?

An optimizer step of several micro-batches as the learner makes it: weights are collected, gradients accumulate on each
rank and are reduced with the last micro-batch, and are clipped. The profiler gives the time of NCCL's kernels, and how
much of it no other kernel ran beside ("exposed"). Bytes are counted from the parameters: what a rank receives when
weights are collected, and sends when gradients are reduced, (R - 1) / R of a tensor each with R ranks. The last column
is the whole adapter, brought to the CPU of every rank: what inference workers are then given.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # documented there, not in its __all__
from torch.multiprocessing.spawn import spawn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.gpus import first_gpus
from benchmarks.vla import Row, Setting, build, config_7b, config_tiny, decode, draws, inputs
from libero_runtime.commands import run_command
from rlinf.engines.distributed import join_group, leave_group, local_device, meeting_point
from rlinf.engines.fsdp import accumulation, clip_gradients, gather_trainable, shard
from rlinf.models.lora import trainable_parameters
from transformers_openvla_oft import action_log_probs, choose_attention, fsdp_units

WARMUPS = 2
BYTES = {torch.bfloat16: 2, torch.float32: 4}
HEADER = (
    "sharded", "micro-batches", "step (s)", "NCCL (s)", "exposed (s)", "collected (GB)", "reduced (GB)", "calls",
    "peak (GB)", "whole adapter (s)",
)  # fmt: skip


@dataclass(frozen=True)
class Exchange:
    """One rank's measurement of an optimizer step.

    step_s: wall time without a profiler. nccl_s, exposed_s: of NCCL's kernels, and of them without any other beside.
    collected_gb: received to collect weights; reduced_gb: sent to reduce gradients. gather_s: to bring the whole
    adapter to the CPU.
    """

    sharded: str
    ranks: int
    micro_batches: int
    batch: int
    step_s: float
    nccl_s: float
    exposed_s: float
    collected_gb: float
    reduced_gb: float
    calls: int
    peak_gb: float
    gather_s: float


def measure(rank: int, ranks: int, meeting: str, sharded: str, micro_batches: int, batch: int, tiny: bool) -> Exchange:
    """What this rank sees; all ranks call it."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
    mesh = join_group(rank=rank, world_size=ranks, init_method=meeting, own_address="127.0.0.1")
    try:
        dtype = torch.float32 if tiny else torch.bfloat16
        attention = choose_attention(None, dtype=dtype)
        size = config_tiny() if tiny else config_7b()
        setting = Setting(size, local_device(), dtype, attention, prompt_tokens=33, rank=32, repeats=1)
        row = Row("training", batch, adapter=True, compiled=not tiny, sharded=sharded)
        module = build(setting, row)
        count = sum(one.numel() for one in trainable_parameters(module).values())
        everything = sum(one.numel() for one in module.parameters())
        shard(
            module, fsdp_units(module), mesh, param_dtype="fp32" if tiny else "bf16", reshard_after_forward=True,
            shard_frozen=sharded == "all",
        )  # fmt: skip
        step = _step(setting, row, module, micro_batches)
        for _ in range(WARMUPS):
            step()
        seconds = _seconds(step)
        nccl_s, exposed_s, calls = _profiled(step)
        gather_s = min(_seconds(lambda: gather_trainable(module)) for _ in range(3))
        part, passes = (ranks - 1) / ranks, 2 * micro_batches if sharded == "all" else 1
        return Exchange(
            sharded=sharded,
            ranks=ranks,
            micro_batches=micro_batches,
            batch=batch,
            step_s=seconds,
            nccl_s=nccl_s,
            exposed_s=exposed_s,
            collected_gb=passes * part * BYTES[dtype] * (everything if sharded == "all" else count) / 1e9,
            reduced_gb=part * BYTES[torch.float32] * count / 1e9,
            calls=calls,
            peak_gb=torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0,
            gather_s=gather_s,
        )
    finally:
        leave_group()


def _step(setting: Setting, row: Row, module: nn.Module, micro_batches: int) -> Any:
    """A step up to the optimizer: every micro-batch forward and backward, gradients reduced and clipped."""
    batch, (_, bins_BT) = inputs(setting, row.batch), draws(setting, row.batch)
    policy: Any = SimpleNamespace(module=module, units=lambda: fsdp_units(module))
    trained = [one for one in module.parameters() if one.requires_grad]

    def step() -> None:
        with accumulation(policy, keeps_weights=True) as begin:
            for number in range(micro_batches):
                begin(number == micro_batches - 1)
                action_log_probs(decode(module, batch).logits_BTV, bins_BT, temperature=1.6).mean().backward()
        clip_gradients(trained, 1.0)
        module.zero_grad()

    return step


def _seconds(step: Any) -> float:
    """Wall seconds of a call, with what it has left on the GPU to do."""
    begin = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _profiled(step: Any) -> tuple[float, float, int]:
    """Seconds of communication, of these what is exposed, and how many calls; of kernels on a GPU, of gloo on a CPU."""
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        _seconds(step)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    communication, others = [], []
    for event in profiler.events() or []:
        if event.device_type != wanted or (on_gpu and event.is_user_annotation):
            continue
        interval = (event.time_range.start, event.time_range.end)
        if event.name.startswith(("ncclDevKernel", "gloo:")):
            communication.append(interval)
        elif on_gpu:
            others.append(interval)
    total = length(communication)
    beside = length([*communication, *others]) - length(others)
    return total / 1e6, beside / 1e6, len(communication)


def length(intervals: Iterable[tuple[float, float]]) -> float:
    """How long any of them lasts."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _rank(rank: int, gpus: Sequence[str], arguments: tuple[Any, ...], results: Any) -> None:
    """A process of the group; it sees one GPU, as an actor worker does."""
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[rank]
    found = measure(rank, *arguments)
    if rank == 0:
        results.put(asdict(found))


def exchange(ranks: int, sharded: str, *, micro_batches: int, batch: int, tiny: bool) -> dict[str, Any]:
    """Rank 0's measurement, made by as many processes as there are ranks."""
    gpus = [] if tiny else first_gpus(ranks, flag=f"--ranks {ranks}").split(",")
    with tempfile.TemporaryDirectory() as folder:
        results = mp.get_context("spawn").SimpleQueue()
        arguments = (ranks, meeting_point("127.0.0.1", Path(folder)), sharded, micro_batches, batch, tiny)
        spawn(_rank, (gpus, arguments, results), nprocs=ranks)
        found: dict[str, Any] = results.get()
        return found


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The measurements as lines of Markdown."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
    for row in rows:
        numbers = [row["step_s"], row["nccl_s"], row["exposed_s"], row["collected_gb"], row["reduced_gb"]]
        cells = [row["sharded"], f"{row['micro_batches']} x {row['batch']}", *(f"{number:.3f}" for number in numbers)]
        lines.append(f"| {' | '.join(cells)} | {row['calls']} | {row['peak_gb']:.1f} | {row['gather_s']:.2f} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="processes, one per GPU (%(default)s)")
    parser.add_argument("--sharded", nargs="+", choices=("trained", "all"), default=["trained"], help="by FSDP2")
    parser.add_argument("--micro-batches", type=int, default=8, help="of an optimizer step (%(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="samples of a micro-batch (%(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the rows to, too")
    parser.add_argument("--tiny", action="store_true", help="a small model in float32 on a CPU")
    args = parser.parse_args()
    if args.tiny:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return run_command(lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    rows = [
        exchange(args.ranks, sharded, micro_batches=args.micro_batches, batch=args.batch, tiny=args.tiny)
        for sharded in args.sharded
    ]
    print("\n".join(table(rows)))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
