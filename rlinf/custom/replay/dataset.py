"""Expert demonstrations of LIBERO tasks as samples for replay: what the policy saw, and what the expert did next.

Files are LIBERO's HDF5 (one per task, such as ``python -m libero_runtime.demonstrations`` writes) or RLDS shards
(``*.tfrecord-*``, such as openvla/modified_libero_rlds).

Shapes: T steps of a demonstration, N images per frame, C actions per chunk, A dimensions.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libero_runtime.render.cameras import demonstrated_name
from libero_runtime.suites import STANDARD_SUITES, TaskSpec, load_suite
from openvla_oft.data import hdf5, reader, rlds
from openvla_oft.data.dataset import chunk_actions
from openvla_oft.data.demonstration import PROPRIO_DIM, Demo, DemoInfo, ReadOptions
from rlinf.config.compose import REPOSITORY
from rlinf.config.errors import ConfigError
from rlinf.config.schema import ReplayConfig
from rlinf.data import EpisodePlan, EpisodeResult, Observation, RolloutBatch
from rlinf.models import PolicyInputs, ReplayablePolicy

log = logging.getLogger(__name__)


Demonstration = Demo
"""Its images are upright, as the policy sees them, in the file's resolution."""


@dataclass(frozen=True, kw_only=True)
class DemonstrationRef(DemoInfo):
    """Where a demonstration is; ``language`` is the task's."""

    task_id: int


def replay_folder(config: ReplayConfig) -> Path:
    """The configured folder of demonstrations, absolute."""
    folder = Path(config.demonstrations).expanduser()
    return folder if folder.is_absolute() else REPOSITORY / folder


def find_demonstrations(config: ReplayConfig, *, suite: str, task_ids: Sequence[int] | None) -> list[DemonstrationRef]:
    """The demonstrations that the configuration asks for, by task; ``task_ids`` None means the whole suite.

    Raises:
        ConfigError: there are none of some task; names the folder and the command that makes them.
    """
    tasks = load_suite(suite).tasks
    wanted = [tasks[task_id] for task_id in (range(len(tasks)) if task_ids is None else task_ids)]
    folder = replay_folder(config)
    found: dict[int, list[DemonstrationRef]] = {task.task_id: [] for task in wanted}
    for ref in _scan(folder, suite, tasks):
        kept = found.get(ref.task_id)
        if kept is not None and (config.demonstrations_per_task is None or len(kept) < config.demonstrations_per_task):
            kept.append(ref)
    needed = config.demonstrations_per_task or 1
    missing = [task for task, refs in found.items() if len(refs) < needed]
    if missing:
        raise ConfigError(_how_to_make(folder, suite, missing, needed, len(wanted)))
    return [ref for task in wanted for ref in found[task.task_id]]


def read_options(cameras: Sequence[str]) -> ReadOptions:
    """How demonstrations are read for a policy that sees these cameras.

    Raises:
        DemonstrationError: demonstrations have no such camera.
    """
    return ReadOptions(cameras=tuple(demonstrated_name(camera) for camera in cameras))


def read_demonstration(ref: DemonstrationRef, *, cameras: Sequence[str]) -> Demonstration:
    """Read actions, and the images of the cameras that the policy sees (``env.cameras``)."""
    options = read_options(cameras)
    if not rlds.is_shard(ref.path):
        hdf5.scan([ref.path], options)  # a file without the wrist's images is an error that says so
    return reader.read(ref, options)


def as_rollouts(
    refs: Sequence[DemonstrationRef],
    demos: Sequence[Demonstration],
    policy: ReplayablePolicy,
    *,
    suite: str,
    nearest: bool,
) -> RolloutBatch:
    """Demonstrations in the policy's own form: episodes of the expert, every frame of which is a sample.

    Past the end of a demonstration the target is to stay, as in supervised training, and counts as not carried out.
    nearest: how actions become bins (``ReplayConfig.targets``).
    """
    episodes = []
    for number, (ref, demo) in enumerate(zip(refs, demos, strict=True)):
        frames = prepare_frames(demo, ref.language, policy).images_BNHWC.cpu().numpy()
        bins_ST = target_bins(demo.actions_TA, policy, nearest=nearest)
        bins_SCA = bins_ST.numpy().reshape(len(frames), *policy.chunk_shape)
        left_S = np.arange(len(frames), 0, -1)
        plan = EpisodePlan(number, number, suite, ref.task_id, 0, 0)
        batch = RolloutBatch(
            frames_SNHWC=frames,
            languages=(ref.language,),
            language_S=np.zeros(len(frames), np.int64),
            bins_SCA=bins_SCA,
            logprobs_SCA=np.zeros(bins_SCA.shape, np.float32),  # the expert's are not known
            executed_SC=np.arange(policy.chunk_shape[0]) < left_S[:, None],
            rewards_SC=np.zeros(bins_SCA.shape[:2], np.float32),
            episode_S=np.zeros(len(frames), np.int64),
            episodes=(EpisodeResult(plan, True, True, 1.0, ref.num_steps),),
        )
        episodes.append(batch)
    found = RolloutBatch.cat(episodes)
    log.info("%d demonstrations of %d frames", len(refs), found.num_samples)
    return found


def prepare_frames(demo: Demonstration, language: str, policy: ReplayablePolicy) -> PolicyInputs:
    """All frames of a demonstration through the policy's own image path, as observations of the simulator are."""
    count = len(demo.images_TNHWC)
    # Policies over images and language drop proprioception; no method replays it.
    proprio_TP = np.zeros((count, PROPRIO_DIM), np.float32)
    return policy.prepare(Observation(demo.images_TNHWC, proprio_TP, (language,) * count))


def target_bins(actions_TA: NDArray[np.float32], policy: ReplayablePolicy, *, nearest: bool) -> Tensor:
    """The next chunk of actions from every step as bins (T, C * A), int64."""
    lengths = np.array([len(actions_TA)], np.int64)
    chunks_TCA, _ = chunk_actions(actions_TA, lengths, num_steps=policy.chunk_shape[0])
    return policy.encode_actions(torch.from_numpy(chunks_TCA), nearest=nearest)


def _scan(folder: Path, suite: str, tasks: Sequence[TaskSpec]) -> Iterator[DemonstrationRef]:
    """Every demonstration of the suite in the folder: HDF5 where there is any, else RLDS."""
    by_name = {task.name: task for task in tasks}
    # Of LIBERO-90's tasks twelve sentences belong to more than one: RLDS does not say to which.
    spoken = Counter(task.language.lower() for task in tasks)
    by_language = {task.language.lower(): task for task in tasks if spoken[task.language.lower()] == 1}
    files = hdf5.find_files(folder, suite)
    for info in hdf5.scan(files) if files else rlds.scan(rlds.find_shards(folder, suite)):
        task = by_name.get(info.path.stem.removesuffix("_demo")) or by_language.get(info.language.lower())
        if task is not None:
            yield DemonstrationRef(**{**vars(info), "language": task.language}, task_id=task.task_id)


def _how_to_make(folder: Path, suite: str, missing: Sequence[int], needed: int, wanted: int) -> str:
    where, tasks = folder / suite, ",".join(map(str, missing))
    ways = []
    if suite in STANDARD_SUITES:  # which the scripted expert plays
        ways.append(
            f"Make them: python -m libero_runtime.demonstrations --suite {suite} --tasks {tasks} "
            f"--episodes-per-task {needed} --output {where}"
        )
    if not hdf5.find_files(folder, suite):  # where there is any HDF5, RLDS is not looked at
        ways.append(
            "Download them: hf download openvla/modified_libero_rlds --repo-type dataset --local-dir " + str(folder)
        )
    return "\n".join(
        [
            f"replay needs demonstrations of {suite}, but {len(missing)} of {wanted} tasks have fewer than {needed} "
            f"demonstration(s) in {where} (or {folder}): tasks {tasks}",
            *ways,
            "Another folder is given with method.replay.demonstrations=FOLDER",
        ]
    )
