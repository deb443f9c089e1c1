"""Reader of RLDS demonstrations of LIBERO (openvla/modified_libero_rlds), without TensorFlow.

A shard is a TFRecord file. A record is one episode, a serialized ``tf.train.Example`` with the steps laid end to end
under keys such as ``steps/action``. Images are encoded (JPEG or PNG) and upright: the data set's builder rotated
them. Actions are the environment's own, gripper -1 open, +1 close (OpenVLA's loader maps that to its units later).

Shapes: T steps, N cameras, H x W pixels, C colour channels, A action dimensions.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from libero_runtime.suites import STANDARD_SUITES, instruction
from openvla_oft.data.demonstration import (
    ACTION_DIM,
    Demo,
    DemoInfo,
    DemonstrationError,
    ReadOptions,
    check_actions,
    checked_proprio,
    is_data,
    kept_steps,
)
from openvla_oft.data.images import prepare_images
from openvla_oft.data.tfrecord import Record, bytes_list, features_of, float_list, read_record, records
from transformers_openvla_oft.loading import read_object

IMAGE_KEYS = {"agentview": "steps/observation/image", "eye_in_hand": "steps/observation/wrist_image"}
ACTION_KEY = "steps/action"
PROPRIO_KEY = "steps/observation/state"
LANGUAGE_KEY = "steps/language_instruction"
INFO_FILE = "dataset_info.json"
"""What tensorflow-datasets writes beside the shards."""
_SHARD = re.compile(r"(?P<name>.+\.tfrecord)-(?P<index>\d+)-of-(?P<count>\d+)")


def is_shard(path: Path) -> bool:
    """Whether a file is named like a TFRecord shard."""
    return ".tfrecord" in path.name


def find_shards(folder: Path, suite: str) -> list[Path]:
    """Shards of a suite: below ``folder/<suite>_no_noops`` or ``folder/<suite>``, else in ``folder`` itself.

    Raises:
        DemonstrationError: a shard of the set is missing (names say how many there are).
    """
    for inner in (folder / f"{suite}_no_noops", folder / suite):
        found = sorted(path for path in inner.rglob("*.tfrecord*") if is_data(path))
        if found:
            break
    else:
        found = sorted(path for path in folder.glob("*.tfrecord*") if is_data(path))
    _check_complete(found)
    return found


def scan(shards: Sequence[Path], options: ReadOptions | None = None) -> Iterator[DemoInfo]:
    """Every episode of the shards; images are not touched, so checksums are compared only when one is read.

    Raises:
        DemonstrationError: a shard is malformed, or holds another number of episodes than the data set says.
    """
    options = options or ReadOptions()
    for path in shards:
        num_episodes = 0
        for record in records(path):
            num_episodes += 1
            with _explained(record):
                features = features_of(record.data)
                actions_TA = _actions(features, record)
                stated = (
                    next(bytes_list(_required(features, LANGUAGE_KEY, record)), b"").decode(errors="replace").strip()
                )
                for camera in options.cameras:
                    _required(features, IMAGE_KEYS[camera], record)
            kept_T = kept_steps(actions_TA, drop_noops=options.drop_noops, where=record.where)
            yield DemoInfo(
                path=path,
                name=str(record.index),
                language=instruction(stated) or stated,
                num_steps=int(kept_T.sum()),
                offset=record.offset,
                suite=_suite_of(path),
            )
        _check_number(path, num_episodes)


def read_demo(info: DemoInfo, options: ReadOptions) -> Demo:
    """Read one episode: compare its checksum, check its numbers, decode and resize the images that are kept."""
    record = read_record(info.path, index=int(info.name), offset=info.offset)
    with _explained(record):
        features = features_of(record.data)
        actions_TA = _actions(features, record)
        stored = [list(bytes_list(_required(features, IMAGE_KEYS[camera], record))) for camera in options.cameras]
    check_actions(actions_TA, where=record.where)
    kept_T = kept_steps(actions_TA, drop_noops=options.drop_noops, where=record.where)
    cameras = []
    for camera, encoded in zip(options.cameras, stored, strict=True):
        if len(encoded) != len(actions_TA):
            raise DemonstrationError(
                f"{record.where}: {len(actions_TA)} actions, but {len(encoded)} images in {IMAGE_KEYS[camera]}"
            )
        steps = np.flatnonzero(kept_T).tolist()
        images_THWC = _stack([_decode(encoded[step], camera, step, record) for step in steps], camera, record)
        size = options.image_size or images_THWC.shape[1]
        cameras.append(prepare_images(images_THWC, image_size=size, pictures=options.pictures))
    proprio_TP = None
    if options.proprio:
        with _explained(record):
            values = float_list(_required(features, PROPRIO_KEY, record))
        given_TP = values.reshape(len(kept_T), -1) if len(values) % len(kept_T) == 0 else values[:, None]
        proprio_TP = checked_proprio([given_TP], len(kept_T), where=record.where)[kept_T]
    return Demo(np.stack(cameras, axis=1), actions_TA[kept_T], proprio_TP)


def _check_complete(shards: Sequence[Path]) -> None:
    present: dict[tuple[Path, str, int], set[int]] = {}
    for path in shards:
        match = _SHARD.fullmatch(path.name)
        if match:
            present.setdefault((path.parent, match["name"], int(match["count"])), set()).add(int(match["index"]))
    for (folder, name, count), indices in present.items():
        missing = sorted(set(range(count)) - indices)
        if missing:
            raise DemonstrationError(
                f"{folder} holds {len(indices)} of the {count} shards of {name}; missing: "
                f"{', '.join(map(str, missing[:10]))}; download them"
            )


def _suite_of(path: Path) -> str | None:
    """LIBERO's shards are named ``<suite>[_no_noops]-<split>.tfrecord-...``."""
    name = path.name.partition("-")[0].removesuffix("_no_noops")
    return name if name in STANDARD_SUITES else None


def _check_number(path: Path, found: int) -> None:
    """A file that was cut off between two records has nothing else wrong with it."""
    if (expected := _stated_number(path)) not in (None, found):
        raise DemonstrationError(
            f"{path} holds {found} episodes; {INFO_FILE} says {expected}: it is incomplete; download it again"
        )


def _stated_number(path: Path) -> int | None:
    """Episodes of a shard as the ``dataset_info.json`` beside it says; None where it does not."""
    match, file = _SHARD.fullmatch(path.name), path.with_name(INFO_FILE)
    if match is None or not file.is_file():
        return None
    split = match["name"].removesuffix(".tfrecord").rpartition("-")[2]
    stated = read_object(file, expected="the splits of a data set").get("splits", [])
    lengths = next((entry.get("shardLengths") for entry in stated if entry["name"] == split), None)
    if lengths is None:
        return None
    if len(lengths) != int(match["count"]):
        raise DemonstrationError(
            f"{path} is one of {int(match['count'])} shards by its name, but {INFO_FILE} lists {len(lengths)} "
            f"of {split!r}; download both again"
        )
    return int(lengths[int(match["index"])])


@contextmanager
def _explained(record: Record) -> Iterator[None]:
    """Say where it happened when the bytes of a record make no sense."""
    try:
        yield
    except DemonstrationError:
        raise
    except ValueError as error:
        record.check()  # corruption explains it better
        raise DemonstrationError(f"{record.where} is not a tf.train.Example ({error})") from error


def _required(features: dict[str, memoryview], key: str, record: Record) -> memoryview:
    if key not in features:
        raise DemonstrationError(f"{record.where} has no {key}; its keys: {sorted(features)}")
    return features[key]


def _actions(features: dict[str, memoryview], record: Record) -> NDArray[np.float32]:
    values = float_list(_required(features, ACTION_KEY, record))
    if len(values) == 0 or len(values) % ACTION_DIM:
        raise DemonstrationError(
            f"{record.where}: {ACTION_KEY} holds {len(values)} numbers, expected {ACTION_DIM} per step"
        )
    return values.reshape(-1, ACTION_DIM)


def _decode(data: bytes, camera: str, step: int, record: Record) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DemonstrationError(f"{record.where}: the {camera} image of step {step} is broken ({error})") from error


def _stack(images: Sequence[NDArray[np.uint8]], camera: str, record: Record) -> NDArray[np.uint8]:
    shapes = {image.shape for image in images}
    height, width, _ = images[0].shape
    if len(shapes) != 1 or height != width:
        raise DemonstrationError(
            f"{record.where}: {camera} images of sizes {sorted(shape[:2] for shape in shapes)}, "
            f"expected squares of one size"
        )
    return np.stack(images)
