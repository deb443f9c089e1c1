"""Settings that a configuration leaves to the GPU's memory."""

from dataclasses import replace

import pytest

from rlinf.config import load_config, validate
from rlinf.config.gpu_memory import settle

CONFIG = "crl_experiment/libero_spatial_grpo_openvlaoft_spatial"


def choices(config):
    actor, model = config.actor, config.actor.model
    return actor.micro_batch_size, model.compile_blocks, model.gradient_checkpointing, actor.fsdp.shard_frozen


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (139.8, (32, True, False, False)),
        (79.6, (16, True, False, False)),
        (44.5, (16, True, True, False)),
        (23.7, (8, True, True, True)),
        (None, (8, False, True, False)),
    ],
)
def test_by_memory(gib, expected):
    config = load_config(CONFIG, [])
    validate(config, num_tasks=10)
    settled, lines = settle(config, gpu_gib=gib, num_ranks=1)
    validate(settled, num_tasks=10)
    assert choices(settled) == expected
    assert len(lines) == 4
    assert f"actor.micro_batch_size={expected[0]}, chosen" in lines[-1]
    assert all(("without a GPU" if gib is None else f"{gib:.0f} GiB") in line for line in lines)
    assert settle(settled, gpu_gib=gib, num_ranks=1) == (settled, [])


def test_what_is_given_stays():
    given = ["actor.micro_batch_size=4", "actor.model.gradient_checkpointing=true", "actor.model.compile_blocks=false"]
    settled, lines = settle(load_config(CONFIG, given), gpu_gib=140, num_ranks=1)
    assert choices(settled) == (4, False, True, False)
    assert [line.split("=")[0] for line in lines] == ["actor.fsdp.shard_frozen"]
    small = load_config("crl_experiment/libero_spatial_grpo_tiny", [])
    assert settle(small, gpu_gib=140, num_ranks=1) == (small, [])


@pytest.mark.parametrize(
    ("global_batch", "ranks", "cameras", "expected"),
    [(8192, 8, 1, 32), (8192, 1, 2, 16), (96, 2, 1, 24), (30, 2, 1, 15)],
)
def test_the_batch_divides_every_ranks_part(global_batch, ranks, cameras, expected):
    config = load_config(CONFIG, [f"actor.global_batch_size={global_batch}"])
    config = replace(config, env=replace(config.env, cameras=["agentview", "robot0_eye_in_hand"][:cameras]))
    settled, _ = settle(config, gpu_gib=140, num_ranks=ranks)
    assert settled.actor.micro_batch_size == expected
