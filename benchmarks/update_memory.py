"""Memory of an update: what FSDP ranks and a rollout worker hold of a collection beside Ray's shared memory.

    python benchmarks/update_memory.py                                 # a tenth of a published epoch, 8 ranks: 11 GB
    python benchmarks/update_memory.py --ways shared --samples 65536   # all of it: 12 GB
    python benchmarks/update_memory.py --ranks 2 --samples 1312        # what the test runs: 1.5 GB

Synthetic episodes of 64 chunks are recorded by a worker and learnt from by ranks, all of them Ray actors, as in a run:
``EpisodeRecorder``, ``ActorWorker.update`` and ``PolicyLearner`` are the real ones; the policy has 256 weights.
Beside it, the way that copies everything: the recorder joins all images and then stores them, every rank joins the
collections.

Private memory is ``Private_*`` of ``/proc/PID/smaps``, mappings of the object store left out, above what it was before:
for ranks just before the collection is fetched, after an update with one short episode; their largest is taken over all
micro-batches. A rank's share is the images of its own samples. Needs Linux; Ray runs on the loopback interface.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray._private.internal_api import memory_summary
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from rlinf.config.schema import AlgorithmConfig, Config, OptimConfig
from rlinf.custom.methods import ContinualMethod
from rlinf.data import EnvStep, EpisodePlan, Observation, RolloutBatch
from rlinf.engines.distributed import join_group
from rlinf.engines.fsdp import gather_trainable, shard
from rlinf.engines.learner import PolicyLearner
from rlinf.envs.episodes import EpisodeRecorder
from rlinf.models import PolicyEval, PolicyInputs, PolicySource
from rlinf.scheduler.cluster import Cluster
from rlinf.scheduler.worker_group import WorkerGroup, WorkerPlacement
from rlinf.workers.actor import ActorWorker
from rlinf.workers.launch import TORCH_ENVIRONMENT
from rlinf.workers.object_store import FILLED

CHUNKS = 64  # of an episode: 512 actions in chunks of 8
CHUNK_SHAPE = (8, 7)
ENVIRONMENTS = 8
GLOBAL_BATCH = 8192
MICRO_BATCH = 32
WAYS = ("shared", "copies")


def private_bytes() -> int:
    """Memory of this process alone; what is mapped from Ray's object store does not count."""
    total, in_store = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            in_store = "plasma" in line
        elif name in ("Private_Clean:", "Private_Dirty:") and not in_store:
            total += 1024 * int(values[0])
    return total


def episode_lengths(num_samples: int) -> list[int]:
    """Chunks of each episode; the last one may be shorter."""
    whole, rest = divmod(num_samples, CHUNKS)
    return [CHUNKS] * whole + ([rest] if rest else [])


class Collector:
    """Records episodes that take turns in a few environments, as a rollout worker does."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.seen = Observation(np.zeros((1, 1, 1, 1, 3), np.uint8), np.zeros((1, 8), np.float32), ("lift",))

    def collect(self, lengths: Sequence[int], way: str) -> tuple[list[Any], int]:
        """References to the collection, and the largest private memory meanwhile, bytes above that before."""
        before, largest = private_bytes(), 0
        recorder = EpisodeRecorder(ray.put) if way == "shared" else EpisodeRecorder()
        for finished in self._play(recorder, lengths):
            if finished % ENVIRONMENTS == 0:
                largest = max(largest, private_bytes() - before)
        if way == "shared":
            return recorder.batches(), largest
        parts = recorder.batches()
        joined = RolloutBatch.cat(parts)
        whole = replace(joined, frames_SNHWC=np.asarray(joined.frames_SNHWC))
        return [ray.put(whole)], max(largest, private_bytes() - before)

    def _play(self, recorder: EpisodeRecorder, lengths: Sequence[int]) -> Iterator[int]:
        """Episodes that are over, each time one is."""
        rng = np.random.default_rng(0)
        waiting, running = list(range(len(lengths))), dict[int, int]()
        while waiting or running:
            while waiting and len(running) < ENVIRONMENTS:
                number = waiting.pop(0)
                recorder.start(EpisodePlan(number, number // 8, "benchmark", 0, 0, 0))
                running[number] = lengths[number]
            self._step(recorder, running, rng)
            for number in [number for number, left in running.items() if not left]:
                del running[number]
                yield number + 1

    def _step(self, recorder: EpisodeRecorder, running: dict[int, int], rng: np.random.Generator) -> None:
        count = len(running)
        for number in running:
            running[number] -= 1
        over = np.array([not left for left in running.values()])
        won = over & np.array([number % 2 == 0 for number in running])
        rewards = np.zeros((count, CHUNK_SHAPE[0]), np.float32)
        rewards[won, -1] = 5.0
        none = np.zeros((count, CHUNK_SHAPE[0]), np.bool_)
        size = self.image_size
        recorder.act(
            list(running),
            images_BNHWC=rng.integers(0, 256, (count, 1, size, size, 3), np.uint8),
            bins_BCA=rng.integers(0, 256, (count, *CHUNK_SHAPE)),
            logprobs_BCA=np.full((count, *CHUNK_SHAPE), -np.log(256), np.float32),
        )
        recorder.step(
            list(running),
            EnvStep(
                Observation(
                    np.zeros((count, 1, 1, 1, 3), np.uint8), np.zeros((count, 8), np.float32), ("lift",) * count
                ),
                rewards_BC=rewards,
                executed_BC=~none,
                success_BC=none | won[:, None],
                terminated_B=won,
                truncated_B=over & ~won,
            ),
        )


class Brightness(nn.Module):
    """Logits of the 256 bins, the same for every action: a weight each, times how bright an image is (-1 to 1) at every
    eighth pixel, so that the policy itself takes no memory worth mentioning."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(256))

    def forward(self, images_BNHWC: Tensor) -> Tensor:
        brightness_B = images_BNHWC[:, :, ::8, ::8].float().mean((1, 2, 3, 4)) / 127.5 - 1
        return brightness_B[:, None] * self.weight


class TinyPolicy:
    """As much of a ``Policy`` as an update needs; notes when a micro-batch arrives, and the memory then."""

    value_head = None
    chunk_shape = CHUNK_SHAPE

    def __init__(self) -> None:
        self.module = Brightness()
        self.begin()

    def begin(self) -> None:
        """The collection comes next."""
        self.started, self.before = time.monotonic(), private_bytes()
        self.first_s: float | None = None
        self.largest = 0

    def units(self) -> Sequence[nn.Module]:
        return ()

    def trainable_modules(self) -> dict[str, list[nn.Parameter]]:
        return {"head": list(self.module.parameters())}

    def evaluate_actions(self, inputs: PolicyInputs, bins_BCA: Tensor, *, temperature: float) -> PolicyEval:
        if self.first_s is None:
            self.first_s = time.monotonic() - self.started
        log_probs_BV = torch.log_softmax(self.module(inputs.images_BNHWC) / temperature, dim=-1)
        chosen = log_probs_BV.gather(1, bins_BCA.flatten(1)).view(bins_BCA.shape)
        entropy_B = -(log_probs_BV.exp() * log_probs_BV).sum(1)
        self.largest = max(self.largest, private_bytes() - self.before)
        return PolicyEval(chosen, entropy_B[:, None, None].expand(bins_BCA.shape))


@dataclass(frozen=True)
class Measured:
    """Of one rank's update: ``largest`` private bytes above those before, and a hash of the weights after it."""

    first_s: float
    largest: int
    weights: str


class Rank(ActorWorker):
    """A real learner with the tiny policy."""

    def setup(self, init_method: str, resume_from: Path | None) -> int:
        mesh = join_group(
            rank=self._rank, world_size=self._world_size, init_method=init_method, own_address="127.0.0.1"
        )
        policy: Any = TinyPolicy()
        self._policy = policy
        shard(self._policy.module, (), mesh, param_dtype="fp32", reshard_after_forward=True)
        self._learner = PolicyLearner(
            self._policy,
            ContinualMethod(),
            algorithm=AlgorithmConfig(),
            optim=OptimConfig(lr=1e-3),
            global_batch=GLOBAL_BATCH,
            micro_batch=MICRO_BATCH,
            device=torch.device("cpu"),
        )
        return 0

    def update(self, batches: Sequence[Any], seed: int, epoch: int, keep: bool = False) -> dict[str, float]:
        self._policy.begin()
        return super().update(batches, seed, epoch, keep)

    def measured(self) -> Measured:
        (weights,) = gather_trainable(self._policy.module).values()
        return Measured(self._policy.first_s, self._policy.largest, hashlib.sha256(weights.tobytes()).hexdigest())


class CopyingRank(Rank):
    """Joins the images of all collections first."""

    def update(self, batches: Sequence[Any], seed: int, epoch: int, keep: bool = False) -> dict[str, float]:
        self._policy.begin()
        joined = RolloutBatch.cat(ray.get(list(batches)))
        return self._learner.update(replace(joined, frames_SNHWC=np.asarray(joined.frames_SNHWC)), seed=seed)


@dataclass(frozen=True)
class Row:
    """Of one way: bytes of the worker that collects, and of the rank with the most; of the object store after it."""

    collector: int
    ranks: list[Measured]
    stored: int
    spilled: bool


def measure(way: str, lengths: Sequence[int], *, num_ranks: int, image_size: int) -> Row:
    """Collect and update once, with processes of their own."""
    collector: Any = ray.remote(Collector).options(runtime_env={"env_vars": TORCH_ENVIRONMENT}).remote(image_size)
    config, source = Config(), PolicySource(Path(), unnorm_key="", seed=0)
    config.actor.num_threads = 1
    ranks = WorkerGroup(
        "actor",
        Rank if way == "shared" else CopyingRank,
        num_ranks,
        lambda rank: (rank, num_ranks, config, source),
        placement=WorkerPlacement(env_vars=TORCH_ENVIRONMENT),
        timeout_s=600,
        watched=True,
    )
    meeting = tempfile.TemporaryDirectory()
    ranks.call("setup", ranks.call("rendezvous", Path(meeting.name))[0], None)
    ranks.call("update", ray.get(collector.collect.remote([1, 2], way))[0], 0, 0)
    batches, collecting = ray.get(collector.collect.remote(lengths, way))
    ranks.call("update", tuple(batches), 0, 0)
    measured: list[Measured] = ranks.call("measured")
    spilled = "Spilled" in store_summary()
    del batches
    stored = stored_mib(wait_s=10)
    ranks.call("close")
    meeting.cleanup()
    ranks.stop()
    ray.kill(collector)
    return Row(collecting, measured, stored, spilled)


def store_summary() -> str:
    """What Ray says about its object store."""
    return str(memory_summary(ray.get_runtime_context().gcs_address, stats_only=True))


def stored_mib(*, wait_s: float) -> int:
    """Mebibytes in the object store, once it is empty or ``wait_s`` have passed."""
    deadline = time.monotonic() + wait_s
    while True:
        found = re.search(r"Plasma memory usage (\d+) MiB", store_summary())
        stored = int(found[1]) if found else 0
        if not stored or time.monotonic() > deadline:
            return stored
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=6554, help="chunks of all episodes")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS)
    args = parser.parse_args()
    lengths = episode_lengths(args.samples)
    images = args.samples * 3 * args.image_size**2
    share = images / args.ranks
    print(
        f"{args.samples} samples, {len(lengths)} episodes: {images / 1e9:.2f} GB of images, {share / 1e6:.0f} MB a rank"
    )
    print(
        "| images | rank (MB) | of its share | first micro-batch (s) | collector (MB) | left in store (MB) | spilled |"
    )
    print("|---|---:|---:|---:|---:|---:|---|")
    weights = set()
    with Cluster(object_store_gb=(1.01 * images + 2**28) / FILLED / 2**30):
        for way in args.ways:
            row = measure(way, lengths, num_ranks=args.ranks, image_size=args.image_size)
            largest = max(rank.largest for rank in row.ranks)
            first = max(rank.first_s for rank in row.ranks)
            weights |= {rank.weights for rank in row.ranks}
            print(
                f"| {way} | {largest / 1e6:.0f} | {largest / share:.2f} | {first:.2f} | {row.collector / 1e6:.0f} "
                f"| {row.stored} | {'yes' if row.spilled else 'no'} |",
                flush=True,
            )
    print("weights after the update: " + ("the same" if len(weights) == 1 else "DIFFERENT"))
    return 0 if len(weights) == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
