"""Time of acting: milliseconds per batch, chunks per second and GPU memory, with and without CUDA graphs.

    python benchmarks/inference.py [--checkpoint FOLDER] [--precision fp32] [--batches 8 32 64]

Pictures are random, prompts are LIBERO's; times are wall-clock medians, from pictures in host memory to actions there.
On a machine without a GPU only the plain forward pass is measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from rlinf.config.schema import ModelConfig
from rlinf.data import Observation
from rlinf.models import Policy, PolicySource, load_policy

LANGUAGE = "pick up the black bowl next to the plate and place it on the plate"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(checkpoint: Path, *, precision: str, cuda_graphs: bool, rank: int) -> Policy:
    source = PolicySource(checkpoint, unnorm_key="libero_spatial", seed=0, cuda_graphs=cuda_graphs)
    policy = load_policy(ModelConfig(lora_rank=rank), source, base_dtype=DTYPES[precision])
    policy.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return policy


def seconds_per_batch(policy: Policy, batch: int, repeats: int) -> float:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 1, 256, 256, 3), np.uint8)
    observation = Observation(images, np.zeros((batch, 8), np.float32), (LANGUAGE,) * batch)
    uniforms = rng.random((batch, *policy.chunk_shape))
    taken = []
    for _ in range(repeats + 3):
        begin = time.perf_counter()
        output = policy.act(policy.prepare(observation), temperature=1.0, uniforms_BCA=uniforms)
        output.bins_BCA.cpu()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[3:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("model/tiny-openvla-oft-libero-spatial"))
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--rank", type=int, default=32, help="of the adapter")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    print(f"| {'batch':>5} | {'graphs':>6} | {'ms':>8} | {'chunks/s':>8} | {'GPU GB':>6} |")
    print("|------:|-------:|---------:|---------:|-------:|")
    for cuda_graphs in (False, True) if torch.cuda.is_available() else (False,):
        policy = load(args.checkpoint, precision=args.precision, cuda_graphs=cuda_graphs, rank=args.rank)
        for batch in args.batches:
            seconds = seconds_per_batch(policy, batch, args.repeats)
            memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
            graphs = "yes" if cuda_graphs else "no"
            print(
                f"| {batch:5} | {graphs:>6} | {1e3 * seconds:8.1f} | {batch / seconds:8.0f} | {memory:6.1f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
