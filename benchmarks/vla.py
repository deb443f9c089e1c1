"""Speed of OpenVLA-OFT at the size of the 7B: one table of rollouts (acting) and training steps.

    python benchmarks/vla.py                      # on a GPU: random weights made there, nothing is read from disk
    python benchmarks/vla.py --parts training --train-batch 16 --checkpointing none matmuls --compile on
    python benchmarks/vla.py --parts rollout --adapter on --graphs --profile   # and where the time goes
    python benchmarks/vla.py --tiny               # on a CPU: does it run?

A rollout samples the 56 tokens of a chunk with their log-probabilities, from pictures and prompts in device memory. A
training step is forward and backward of a policy loss through a LoRA adapter on everything, as for one of many
micro-batches: without reducing gradients and without the optimizer. `ms` are those of one step that is waited for;
`samples/s` and utilisation are of many, where the next one is prepared meanwhile, as workers do it.
Utilisation counts the model's own arithmetic (not what checkpointing repeats) against the peak that was measured for
bf16 matrix products. The last column compares log-probabilities with those of the first row with the same adapter
setting (for training, the first rollout with the adapter), token by token.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("CUDA_SCALE_LAUNCH_QUEUES", "4x")  # as workers have it (rlinf/workers/launch.py)
from benchmarks.vla_flops import forward_flops, training_flops
from benchmarks.vla_profile import Operation, slowest, table
from rlinf.engines.distributed import free_port, join_group, leave_group
from rlinf.engines.fsdp import accumulation, shard
from rlinf.models.cuda_graphs import GraphedForward
from rlinf.models.lora import attach_lora, trainable_parameters
from rlinf.models.transfer import Received
from transformers_openvla_oft import (
    ActionOutput,
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    PolicyBatch,
    SmallSizes,
    TowerSizes,
    action_entropy,
    action_log_probs,
    checkpoint_blocks,
    choose_attention,
    compile_blocks,
    fsdp_units,
    lora_target_modules,
    sample_bins,
)
from transformers_openvla_oft.model.blocks import CHECKPOINTING_POLICIES
from transformers_openvla_oft.small import DINOV2, SIGLIP

TEMPERATURE = 1.6
PEAK_TFLOPS = 744.0  # bf16 matrix products on one H200, measured
NUM_WARMUPS = 3
MIN_PROMPT_TOKENS = 2  # one after BOS, which may be a pad
HEADER = (
    ("part", 9), ("batch", 5), ("adapter", 8), ("attention", 17), ("compile", 7), ("graphs", 6), ("sharded", 7),
    ("checkpoints", 11), ("ms", 8), ("samples/s", 9), ("peak GB", 7), ("MFU %", 6), ("|dlogp|", 8),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One measurement to make.

    sharded: what FSDP2 manages: `none`, what is `trained` (the adapter), or `all`.
    checkpointing: `none`, a policy, or `every2` (all of every second block).
    """

    part: str
    batch: int
    adapter: bool = False
    compiled: bool = False
    graphs: bool = False
    sharded: str = "none"
    checkpointing: str = "none"


@dataclass(frozen=True)
class Setting:
    """What all rows share. padded: prompts of several lengths, the longest one slot shorter than `prompt_tokens`."""

    config: OpenVLAConfig
    device: torch.device
    dtype: torch.dtype
    attention: str
    prompt_tokens: int
    rank: int
    repeats: int
    padded: bool = False
    profile: bool = False


@dataclass(frozen=True)
class Measured:
    seconds: float
    streamed_seconds: float
    peak_bytes: int
    logprobs_BT: Tensor
    operations: list[Operation]


def config_7b() -> OpenVLAConfig:
    return OpenVLAConfig(
        vision_backbone_id="dinosiglip-vit-so-224px",
        timm_model_ids=[DINOV2, SIGLIP],
        arch_specifier="no-align+fused-gelu-mlp",
    )


def config_tiny() -> OpenVLAConfig:
    towers = tuple(TowerSizes(timm_id=name, embed_dim=32, depth=2, num_heads=2) for name in (DINOV2, SIGLIP))
    return SmallSizes(
        image_size=64, towers=towers, hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128
    ).config()


def build(setting: Setting, row: Row) -> nn.Module:
    """Random weights on the device, the same for every row, with what the row asks for."""
    torch.manual_seed(0)
    with setting.device:
        model = OpenVLAForActionPrediction._from_config(
            setting.config, dtype=setting.dtype, attn_implementation=setting.attention
        )
    assert isinstance(model, OpenVLAForActionPrediction)
    training = row.part == "training"
    module: nn.Module = model.requires_grad_(requires_grad=False)
    if row.adapter:
        targets = lora_target_modules(model)
        module = attach_lora(model, target_modules=targets, rank=setting.rank, alpha=None, path=None, seed=0)
        give_effect(module)
        if row.sharded == "none":  # sharding brings adapters to the precision of the forward pass itself
            for parameter in trainable_parameters(module).values():
                parameter.data = parameter.data.to(setting.dtype)
    if training and row.checkpointing != "none":
        every = 2 if row.checkpointing == "every2" else 1
        checkpoint_blocks(module, policy="full" if row.checkpointing == "every2" else row.checkpointing, every=every)
    if row.compiled:
        compile_blocks(module)
    return module.train(training)


def give_effect(module: nn.Module) -> None:
    """A fresh adapter adds zeros, which no rounding changes; a trained one does not."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in trainable_parameters(module).items():
        if "lora_B" in name:
            parameter.data.copy_(0.01 * torch.randn(parameter.shape, generator=generator))


def inputs(setting: Setting, batch: int) -> PolicyBatch:
    """Random pictures and prompts, the same rows whatever the batch is."""
    generator = torch.Generator().manual_seed(1)
    config = setting.config
    size = config.image_size
    channels = 3 * config.num_towers * config.num_images_in_input
    rows = [
        (
            torch.randint(3, config.action_token_begin, (setting.prompt_tokens,), generator=generator),
            torch.randn(channels, size, size, generator=generator),
        )
        for _ in range(batch)
    ]
    input_ids_BL = torch.stack([ids for ids, _ in rows])
    attention_mask_BL = torch.ones_like(input_ids_BL)
    if setting.padded:
        for row in range(batch):
            attention_mask_BL[row, 1 : 2 + 5 * row % (setting.prompt_tokens // 2)] = 0
        input_ids_BL[attention_mask_BL == 0] = int(config.llama.pad_token_id or 0)
    input_ids_BL[:, 0] = int(config.llama.bos_token_id or 0)
    pixel_values = torch.stack([pixels for _, pixels in rows]).to(setting.dtype)
    return PolicyBatch(input_ids_BL, attention_mask_BL, pixel_values, padded=setting.padded).to(setting.device)


def decode(module: nn.Module, batch: PolicyBatch) -> ActionOutput:
    output: ActionOutput = module(
        input_ids_BL=batch.input_ids_BL,
        attention_mask_BL=batch.attention_mask_BL,
        pixel_values=batch.pixel_values,
        padded=batch.padded,
    )
    return output


def draws(setting: Setting, batch: int) -> tuple[Tensor, Tensor]:
    """Random numbers to sample with and bins to score, (B, T) each."""
    uniforms_BT = torch.rand(batch, setting.config.num_action_tokens, generator=torch.Generator().manual_seed(2))
    uniforms_BT = uniforms_BT.to(setting.device, torch.float64)
    return uniforms_BT, (uniforms_BT * setting.config.n_action_bins).long()


Step = Callable[[], tuple[Tensor, Received]]
"""One step; gives the logits, and what it sends to the CPU, which may not have arrived yet."""


def rollout_step(setting: Setting, row: Row, module: nn.Module) -> Step:
    """Acts once."""
    batch = inputs(setting, row.batch)
    uniforms_BT, _ = draws(setting, row.batch)
    forward: Callable[[PolicyBatch], ActionOutput] = lambda given: decode(module, given)  # noqa: E731
    if row.graphs:
        forward = GraphedForward(module, forward)

    @torch.no_grad()
    def step() -> tuple[Tensor, Received]:
        logits_BTV = forward(batch).logits_BTV
        sampled_BT = sample_bins(logits_BTV, uniforms_BT, temperature=TEMPERATURE, check_finite=False)
        return logits_BTV, Received(sampled_BT, action_log_probs(logits_BTV, sampled_BT, temperature=TEMPERATURE))

    return step


def training_step(setting: Setting, row: Row, module: nn.Module) -> Step:
    """Runs forward and backward, as for a micro-batch of many, which send nothing."""
    batch = inputs(setting, row.batch)
    _, bins_BT = draws(setting, row.batch)
    accumulating = SimpleNamespace(module=module, units=lambda: fsdp_units(module))

    def step() -> tuple[Tensor, Received]:
        with accumulation(accumulating, keeps_weights=True) as begin:
            begin(False)
            logits_BTV = decode(module, batch).logits_BTV
            logprobs_BT = action_log_probs(logits_BTV, bins_BT, temperature=TEMPERATURE)
            (logprobs_BT.mean() + 0.01 * action_entropy(logits_BTV, temperature=TEMPERATURE).mean()).backward()
        return logits_BTV, Received()

    return step


def measure(setting: Setting, row: Row) -> Measured:
    module = build(setting, row)
    if row.sharded != "none":
        mesh = join_group(rank=0, world_size=1, init_method=f"tcp://127.0.0.1:{free_port()}", own_address="127.0.0.1")
        precision = {torch.bfloat16: "bf16", torch.float32: "fp32"}[setting.dtype]
        shard(
            module, fsdp_units(module), mesh, param_dtype=precision, reshard_after_forward=True,
            shard_frozen=row.sharded == "all",
        )  # fmt: skip
    try:
        step = (rollout_step if row.part == "rollout" else training_step)(setting, row, module)
        seconds, peak, logits_BTV = timed(step, setting)
        streamed_seconds = streamed(step, setting)
        operations = slowest(step, setting.device) if setting.profile else []
    finally:
        if row.sharded != "none":
            leave_group()
    _, bins_BT = draws(setting, row.batch)
    logprobs_BT = action_log_probs(logits_BTV.detach(), bins_BT, temperature=TEMPERATURE)
    return Measured(seconds, streamed_seconds, peak, logprobs_BT.cpu(), operations)


def streamed(step: Step, setting: Setting) -> float:
    """Seconds of a step where the CPU prepares the next one before it looks at what this one gave, as workers do."""
    begin, last = time.perf_counter(), Received()
    for _ in range(setting.repeats):
        _, sent = step()
        last.arrays()
        last = sent
    last.arrays()
    if setting.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / setting.repeats


def timed(step: Step, setting: Setting) -> tuple[float, int, Tensor]:
    """Median seconds of a step that is waited for, peak memory in bytes, and the last step's logits."""
    on_gpu = setting.device.type == "cuda"
    taken = []
    for index in range(NUM_WARMUPS + setting.repeats):
        if on_gpu and index == NUM_WARMUPS:
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        logits_BTV, sent = step()
        sent.arrays()
        if on_gpu:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    return statistics.median(taken[NUM_WARMUPS:]), peak, logits_BTV


def utilisation(setting: Setting, row: Row, seconds: float, peak_tflops: float) -> float:
    rank = setting.rank if row.adapter else 0
    count = training_flops if row.part == "training" else forward_flops
    return (
        row.batch * count(setting.config, prompt_tokens=setting.prompt_tokens, rank=rank) / seconds / peak_tflops / 1e12
    )


def rows_of(args: argparse.Namespace) -> list[Row]:
    choices = {"on": (True,), "off": (False,), "both": (False, True)}
    adapted, compiled = choices[args.adapter], choices[args.compile]
    acting = [
        Row("rollout", args.batch, adapter=adapter, compiled=is_compiled, graphs=graphs)
        for adapter, is_compiled, graphs in product(adapted, compiled, (False, True) if args.graphs else (False,))
    ]
    learning = [
        Row("training", args.train_batch, adapter=True, compiled=is_compiled, sharded=is_sharded, checkpointing=policy)
        for is_sharded, is_compiled, policy in product(args.sharded, compiled, args.checkpointing)
    ]
    return [row for row in acting + learning if row.part in args.parts]


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and not args.tiny:
        raise SystemExit("the 7B shape needs a GPU; use --tiny on a CPU")
    if device.type == "cpu" and args.graphs:
        raise SystemExit("--graphs records CUDA graphs, which needs a GPU; leave it out on a CPU")
    torch.backends.cuda.matmul.allow_tf32 = True
    dtype = torch.float32 if args.tiny else torch.bfloat16
    try:
        attention = choose_attention(args.attention, dtype=dtype)
    except ValueError as error:
        raise SystemExit(f"--attention: {error}") from error
    setting = Setting(
        config=config_tiny() if args.tiny else config_7b(),
        device=device,
        dtype=dtype,
        attention=attention,
        prompt_tokens=args.prompt_tokens,
        rank=args.rank,
        repeats=args.repeats,
        padded=args.padded,
        profile=args.profile,
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    prompts = f"{args.prompt_tokens} prompt slots, {'padded' if args.padded else 'no pads'}"
    print(f"{name}, torch {torch.__version__}, {dtype}, {prompts}, LoRA rank {args.rank}\n")
    print("| " + " | ".join(f"{title:>{width}}" for title, width in HEADER) + " |")
    print("|" + "|".join("-" * (width + 1) + ":" for _, width in HEADER) + "|", flush=True)
    first: dict[bool, Tensor] = {}  # with and without an adapter
    if args.against and Path(args.against).exists():
        first = torch.load(args.against, weights_only=True)
    results: list[dict[str, object]] = []
    for row in rows_of(args):
        try:
            measured = measure(setting, row)
        except torch.cuda.OutOfMemoryError:
            print_row(setting, row, ["out of memory", "", "", "", ""])
            release()
            continue
        same_BT = first.setdefault(row.adapter, measured.logprobs_BT)
        both = min(len(same_BT), row.batch)
        difference = (measured.logprobs_BT[:both] - same_BT[:both]).abs().mean().item()
        print_row(
            setting,
            row,
            [
                f"{1e3 * measured.seconds:.1f}",
                f"{row.batch / measured.streamed_seconds:.1f}",
                f"{measured.peak_bytes / 1e9:.1f}" if measured.peak_bytes else "-",
                f"{100 * utilisation(setting, row, measured.streamed_seconds, args.peak_tflops):.1f}",
                f"{difference:.5f}",
            ],
        )
        results.append(
            {
                **asdict(row),
                "ms": 1e3 * measured.seconds,
                "samples_per_s": row.batch / measured.streamed_seconds,
                "peak_gb": measured.peak_bytes / 1e9,
                "utilisation": utilisation(setting, row, measured.streamed_seconds, args.peak_tflops),
                "logprob_gap": difference,
            }
        )
        if args.against:
            torch.save(first, args.against)
        if args.json:
            Path(args.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        if setting.profile:
            print(table(measured.operations), flush=True)
        del measured
        release()
    return 0


def print_row(setting: Setting, row: Row, results: list[str]) -> None:
    def word(value: bool) -> str:
        return "yes" if value else "no"

    cells = [
        row.part, str(row.batch), word(row.adapter), setting.attention, word(row.compiled), word(row.graphs),
        row.sharded, row.checkpointing if row.part == "training" else "-", *results,
    ]  # fmt: skip
    print(
        "| " + " | ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, HEADER, strict=True)) + " |", flush=True
    )


def release() -> None:
    """Forget the last row's model, graphs and compiled code."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small model in float32")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--parts", nargs="+", choices=("rollout", "training"), default=["rollout", "training"])
    parser.add_argument("--batch", type=int, default=32, help="observations of a rollout step")
    parser.add_argument("--train-batch", type=int, default=16, help="samples of a training step")
    parser.add_argument(
        "--prompt-tokens", type=int, default=33, help="slots of a batch's prompts; LIBERO's are 25 to 45"
    )
    parser.add_argument("--attention", help="sdpa, flash_attention_2 or eager; default: as policies choose it")
    parser.add_argument("--padded", action="store_true", help="prompts of several lengths: attention with a mask")
    parser.add_argument("--adapter", choices=("on", "off", "both"), default="both", help="of rollouts")
    parser.add_argument("--compile", choices=("on", "off", "both"), default="both", help="blocks")
    parser.add_argument("--graphs", action="store_true", help="rollouts through CUDA graphs too")
    parser.add_argument(
        "--sharded",
        nargs="+",
        choices=("none", "trained", "all"),
        default=["trained"],
        help="what FSDP2 manages in training: actors' default is what is trained",
    )
    parser.add_argument(
        "--checkpointing",
        nargs="+",
        choices=("none", "every2", *CHECKPOINTING_POLICIES),
        default=["none", "matmuls", "attention", "every2", "full"],
    )
    parser.add_argument("--rank", type=int, default=32, help="of the adapter")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--peak-tflops", type=float, default=PEAK_TFLOPS)
    parser.add_argument("--json", help="file to write the rows to, too")
    parser.add_argument(
        "--against",
        help="file of the log-probabilities to compare with, of an earlier run of this size; made where there is none",
    )
    parser.add_argument("--profile", action="store_true", help="after each row, the operations that take the most time")
    args = parser.parse_args(arguments)
    if args.prompt_tokens < MIN_PROMPT_TOKENS:
        parser.error(f"--prompt-tokens must be at least {MIN_PROMPT_TOKENS}, given {args.prompt_tokens}")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
