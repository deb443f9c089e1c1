"""Writes the RLDS sample beside it with tensorflow-datasets, as LIBERO's RLDS builder does; not with our own code.

    python -m venv /tmp/tfds && /tmp/tfds/bin/pip install tensorflow-cpu tensorflow-datasets
    /tmp/tfds/bin/python tests/data/rlds/write_sample.py

Three short episodes in two shards, and ``expected.npz``: what was written, and the pictures as TensorFlow decodes them.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

FOLDER = Path(__file__).resolve().parent
SIZE = 32
EPISODES = (
    ("pick up the black bowl next to the ramekin and place it on the plate", 6),
    ("pick up the black bowl on the stove and place it on the plate", 8),
    ("pick up the black bowl next to the ramekin and place it on the plate", 7),
)


def picture(generator: np.random.Generator, step: int) -> np.ndarray:
    """Smooth colours, so that JPEG keeps them; no two corners are alike, so that a rotation shows."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    phase = generator.uniform(0, 0.2) + step / 20
    channels = (rows, columns, 0.5 + 0.4 * np.sin(3 * (rows + phase)))
    return np.round(255 * np.clip(np.stack(channels, axis=-1), 0, 1)).astype(np.uint8)


def episode(index: int) -> list[dict[str, object]]:
    """Steps of one episode; steps 2 and 3 are no-ops (no motion, the gripper as before)."""
    generator = np.random.default_rng(index)
    language, num_steps = EPISODES[index]
    steps = []
    for step in range(num_steps):
        action = generator.uniform(-0.9, 0.9, 7).astype(np.float32)
        action[6] = -1 if step < 4 else 1
        if step in (2, 3):
            action[:6] = 0
        steps.append(
            {
                "observation": {
                    "image": picture(generator, step),
                    "wrist_image": 255 - picture(generator, step),
                    "state": generator.normal(size=8).astype(np.float32),
                    "joint_state": generator.normal(size=7).astype(np.float32),
                },
                "action": action,
                "discount": 1.0,
                "reward": float(step == num_steps - 1),
                "is_first": step == 0,
                "is_last": step == num_steps - 1,
                "is_terminal": step == num_steps - 1,
                "language_instruction": language,
            }
        )
    return steps


class LiberoSpatial(tfds.core.GeneratorBasedBuilder):
    """Features of ``modified_libero_rlds``."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = FOLDER

    def _info(self) -> tfds.core.DatasetInfo:
        pictures = tfds.features.Image(shape=(SIZE, SIZE, 3), dtype=np.uint8, encoding_format="jpeg")
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "steps": tfds.features.Dataset(
                        {
                            "observation": tfds.features.FeaturesDict(
                                {
                                    "image": pictures,
                                    "wrist_image": pictures,
                                    "state": tfds.features.Tensor(shape=(8,), dtype=np.float32),
                                    "joint_state": tfds.features.Tensor(shape=(7,), dtype=np.float32),
                                }
                            ),
                            "action": tfds.features.Tensor(shape=(7,), dtype=np.float32),
                            "discount": tfds.features.Scalar(dtype=np.float32),
                            "reward": tfds.features.Scalar(dtype=np.float32),
                            "is_first": tfds.features.Scalar(dtype=np.bool_),
                            "is_last": tfds.features.Scalar(dtype=np.bool_),
                            "is_terminal": tfds.features.Scalar(dtype=np.bool_),
                            "language_instruction": tfds.features.Text(),
                        }
                    ),
                    "episode_metadata": tfds.features.FeaturesDict({"file_path": tfds.features.Text()}),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, object]:
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index in range(len(EPISODES)):
            name = f"episode_{index}.hdf5"
            yield name, {"steps": episode(index), "episode_metadata": {"file_path": name}}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        builder = LiberoSpatial(data_dir=folder)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
        expected = {}
        for stored in builder.as_dataset(split="train"):
            steps = list(stored["steps"])
            written = episode(int(stored["episode_metadata"]["file_path"].numpy().decode()[8]))
            actions = np.stack([step["action"].numpy() for step in steps])
            assert np.array_equal(actions, np.stack([step["action"] for step in written]))
            key = len(steps)  # no two episodes are equally long
            expected[f"{key}/language"] = np.array(steps[0]["language_instruction"].numpy().decode())
            expected[f"{key}/actions"] = actions
            expected[f"{key}/states"] = np.stack([step["observation"]["state"] for step in written])
            expected[f"{key}/images"] = np.stack(
                [[step["observation"][key].numpy() for key in ("image", "wrist_image")] for step in steps]
            )
        target = FOLDER / "libero_spatial_no_noops" / "1.0.0"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(builder.data_path, target)
        np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
