"""The size of Ray's object store: what a run fills, and whether the machine has room for it."""

import logging
from pathlib import Path

import pytest

from rlinf.config import Config, ConfigError, load_config
from rlinf.models import PolicySource, Stated, policy_kind
from rlinf.models.simple_cnn import CNNSettings
from rlinf.scheduler.cluster import available_memory, check_room
from rlinf.workers.object_store import FILLED, object_store_gb

GIB = 2**30
CNN = "crl_experiment/libero_spatial_grpo_simple_cnn"


def _source(folder: Path, **settings: int) -> PolicySource:
    CNNSettings(channels=(32, 64), **settings).save(folder)
    return PolicySource(folder, unnorm_key="libero_spatial", seed=0)


def _bytes(config: Config, source: PolicySource, *, learn: bool = True) -> float:
    return object_store_gb(config, source, learn=learn) * FILLED * GIB


def test_the_store_holds_the_samples_of_a_published_epoch(tmp_path):
    """1,024 episodes of up to 512 steps in chunks of 8, an image of 224 x 224 each: 9.9 GB."""
    images = 1024 * 64 * 224 * 224 * 3
    store = _bytes(load_config(CNN), _source(tmp_path, image_size=224))
    assert images < store < 1.01 * images + GIB
    assert FILLED < 0.8, "Ray begins to write to disk there"


def test_every_number_of_the_collection_counts(tmp_path):
    config, source = load_config(CNN), _source(tmp_path, image_size=64)
    samples = _bytes(config, source) - _bytes(config, source, learn=False)
    for override in ("algorithm.group_size=16", "algorithm.rollout_epoch=32", "env.train.max_episode_steps=1024"):
        other = load_config(CNN, [override])
        assert _bytes(other, source) - _bytes(other, source, learn=False) == pytest.approx(2 * samples), override
    ragged = load_config(CNN, ["env.train.max_episode_steps=505"])
    assert _bytes(ragged, source) == _bytes(config, source), "a chunk that is cut off is a sample"
    two = _bytes(config, _source(tmp_path, image_size=64, num_images=2)) - _bytes(config, source, learn=False)
    assert two - samples == pytest.approx(1024 * 64 * 64 * 64 * 3)


def test_trained_weights_count(tmp_path):
    config, source = load_config(CNN), _source(tmp_path, image_size=64)
    before = _bytes(config, source)
    (tmp_path / "model.pt").write_bytes(bytes(2**20))
    assert _bytes(config, source) - before >= 2 * 2**20, "what rank 0 answers, and what rollout workers read"
    assert _bytes(config, source, learn=False) < before


def test_images_are_those_that_a_checkpoint_states(small_policy):
    stated = policy_kind(load_config("crl_experiment/libero_spatial_grpo_tiny").actor.model).stated
    assert stated(small_policy) == Stated(1, 32, 8, frozenset({"libero_spatial_no_noops"}))


def test_a_given_size_is_taken_and_too_small_a_one_is_said_to_be(tmp_path, caplog):
    source = _source(tmp_path, image_size=224)
    caplog.set_level(logging.INFO)
    assert object_store_gb(load_config(CNN, ["cluster.object_store_gb=2"]), source, learn=True) == 2
    assert "cluster.object_store_gb=2: Ray writes to disk what does not fit" in caplog.text
    caplog.clear()
    assert object_store_gb(load_config(CNN, ["cluster.object_store_gb=64"]), source, learn=True) == 64
    assert "writes to disk" not in caplog.text
    assert "samples 9.2" in caplog.text


def test_a_machine_without_room_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.delenv("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", raising=False)
    check_room(4 * GIB, shared=4 * GIB, memory=5 * GIB)
    check_room(GIB, shared=2**26, memory=5 * GIB)  # a container's: Ray puts a small store into a file
    with pytest.raises(ConfigError, match=r"4\.5 GiB, does not fit into /dev/shm, which has 4\.0 GiB free") as caught:
        check_room(9 * GIB // 2, shared=4 * GIB, memory=5 * GIB)
    assert "--shm-size=5g" in str(caught.value)
    assert "algorithm.rollout_epoch" in str(caught.value)
    with pytest.raises(ConfigError, match=r"6\.0 GiB, does not fit into the 5\.0 GiB of memory"):
        check_room(6 * GIB, shared=8 * GIB, memory=5 * GIB)
    monkeypatch.setenv("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", "1")
    check_room(4 * GIB, shared=2**26, memory=5 * GIB)


@pytest.mark.parametrize(
    ("group", "limit"),
    [
        ("0::/job_7/step_0", "job_7/memory.max"),
        ("0::/elsewhere", "memory.max"),
        ("9:memory:/slurm/job_7", "memory/slurm/job_7/memory.limit_in_bytes"),
    ],
)
def test_a_jobs_memory_is_what_its_control_group_has(tmp_path, group, limit):
    files = {"proc/meminfo": "MemAvailable: 8388608 kB", "proc/self/cgroup": group, f"sys/fs/cgroup/{limit}": str(GIB)}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert available_memory(tmp_path) == GIB
    (tmp_path / "sys/fs/cgroup" / limit).write_text("max\n")
    assert available_memory(tmp_path) == 8 * GIB


def test_available_memory_is_part_of_the_machines():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < available_memory() <= total
