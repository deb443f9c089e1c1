"""What training changed: effective rank and size of the weights' change, and divergence from the base model."""

import json
import math
from pathlib import Path

import pytest
import torch

from rlinf.cli import diagnose
from rlinf.cli.console import UsageError
from rlinf.config import config_yaml, load_config
from rlinf.config.schema import ReplayConfig
from rlinf.custom.replay.dataset import find_demonstrations, read_demonstration
from rlinf.custom.sequence.lineage import Lineage
from rlinf.diagnostics.divergence import divergence_from_base
from rlinf.diagnostics.weight_change import adapter_changes, effective_rank, means, whole_changes
from rlinf.reporting.diagnoses import Diagnosis, DiagnosisError, append, by_checkpoint, read_if_there
from rlinf.run_layout import CONFIG_FILE, DIAGNOSTICS_FILE, Checkpoint
from tests.small_policy import make_learner, make_rollouts, read_policy, write_adapter
from tests.unit.replay_demos import write_hdf5
from transformers_openvla_oft.adapters import low_rank_product


def test_effective_rank_counts_directions_by_their_weight():
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(3)
    assert effective_rank(torch.tensor([5.0, 0.0])) == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(math.exp(entropy))
    assert effective_rank(torch.zeros(3)) == 0


def test_an_adapters_change_is_that_of_the_weights(small_policy):
    """The product of two small triangles has the singular values of the change itself, of convolutions too."""
    policy = read_policy(small_policy)
    assert means(adapter_changes(policy.module)) == (0.0, 0.0)
    make_learner(policy, lr=0.01).update(make_rollouts(), seed=0)
    changes = {change.name: change for change in adapter_changes(policy.module)}
    layers = dict(policy.module.named_modules())
    assert any(layers[name].get_base_layer().weight.dim() == 4 for name in changes)
    for name, change in changes.items():
        layer = layers[name]
        a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        delta = (low_rank_product(a, b) * layer.scaling["default"]).double().flatten(1)
        values = torch.linalg.svdvals(delta)
        expected = effective_rank(values[:4])  # the adapter's rank: what is beyond is rounding
        assert change.effective_rank == pytest.approx(expected, rel=1e-3), name
        weight = layer.get_base_layer().weight.detach().double()
        assert change.relative_norm == pytest.approx(float(delta.norm() / weight.norm()), rel=1e-4), name


def test_whole_weights_change_in_more_directions_than_an_adapter_has(small_policy):
    base, policy = (read_policy(small_policy, is_lora=False) for _ in range(2))
    assert means(whole_changes(policy.module, base.module)) == (0.0, 0.0)
    make_learner(policy).update(make_rollouts(), seed=0)
    changes = whole_changes(policy.module, base.module)
    rank, norm = means(changes)
    assert rank > 4
    assert 0 < norm < 1
    matrices = {name: weight for name, weight in base.module.named_parameters() if weight.dim() > 1}
    sides = {name: min(weight.flatten(1).shape) for name, weight in matrices.items()}
    assert all(change.effective_rank <= sides[change.name] + 1e-6 for change in changes)


def test_divergence_from_the_base_model_grows_with_training(small_policy, tmp_path):
    folder = write_hdf5(tmp_path, task_ids=[2], num_demos=1)
    (ref,) = find_demonstrations(ReplayConfig(demonstrations=str(folder)), suite="libero_spatial", task_ids=[2])
    demo, policy = read_demonstration(ref, cameras=["agentview"]), read_policy(small_policy)
    seen = [divergence_from_base(policy, ref, demo, temperature=1.0, max_frames=4)]
    learner = make_learner(policy, lr=0.01)
    for epoch in range(2):
        learner.update(make_rollouts(), seed=epoch)
        seen.append(divergence_from_base(policy, ref, demo, temperature=1.0, max_frames=4))
    assert seen[0] == pytest.approx(0, abs=1e-6)
    assert 0 < seen[1] < seen[2]
    in_parts = divergence_from_base(policy, ref, demo, temperature=1.0, max_frames=4, batch=3)
    assert in_parts == pytest.approx(seen[2], rel=1e-4)


def write_run(policy: Path, folder: Path, *, adapter_seed: int) -> Checkpoint:
    """A run after one task, as training leaves it behind: a checkpoint, where it comes from, and its settings."""
    given = [f"actor.checkpoint_load_path={policy}", "actor.model.lora_rank=4", "env.fixed_task_ids=[2]"]
    given.append(f"actor.tokenizer.tokenizer_model={policy}")
    config = load_config("crl_experiment/libero_spatial_grpo_tiny", given)
    checkpoint = Checkpoint.at(folder / "task_2_seed7", 3)
    write_adapter(policy, checkpoint.actor, seed=adapter_seed)
    Lineage("sequential", "libero_spatial", 7, (2,), (2,), str(policy)).save(checkpoint.actor)
    (checkpoint.run_folder / CONFIG_FILE).write_text(config_yaml(config))
    return checkpoint


def test_what_was_found_is_kept_beside_the_ledger(small_policy, tmp_path, capsys):
    demonstrations = write_hdf5(tmp_path / "demonstrations", task_ids=[2, 5], num_demos=1)
    checkpoint = write_run(small_policy, tmp_path / "logs", adapter_seed=1)
    run, kept, details = checkpoint.run_folder, tmp_path / "logs" / DIAGNOSTICS_FILE, tmp_path / "details.json"
    assert diagnose.main([str(run)]) == 0
    given = ["--demonstrations", str(demonstrations), "--tasks", "2,5", "--frames", "3", "--json", str(details)]
    assert diagnose.main([str(checkpoint.actor), *given]) == 0
    assert str(kept) in capsys.readouterr().out.splitlines()
    first, second = read_if_there(kept)
    assert (first.kl, sorted(second.kl)) == ({}, [2, 5])
    assert min(second.kl.values()) > 0
    assert (second.effective_rank, second.relative_change) == (first.effective_rank, first.relative_change)
    assert 1 < second.effective_rank <= 4
    about = (second.method, second.suite, second.seed, second.learnt_tasks, second.checkpoint)
    assert about == ("sequential", "libero_spatial", 7, (2,), "task_2_seed7/global_step_3")
    assert len(json.loads(details.read_text())[0]["layers"]) > 10
    (checkpoint.actor / "lineage.json").unlink()
    with pytest.raises(UsageError, match=r"a run without lineage\.json"):
        diagnose.main([str(run)])


def diagnosis(checkpoint: str, kl: dict[int, float], learnt: tuple[int, ...] = (0,)) -> Diagnosis:
    return Diagnosis(
        method="ewc", suite="libero_spatial", seed=1, learnt_tasks=learnt, checkpoint=checkpoint, effective_rank=2.5,
        relative_change=0.01, temperature=1.0, frames=8, time="2026-05-04T10:00:00+00:00", kl=kl,
    )  # fmt: skip


def test_of_several_the_one_over_the_most_tasks_counts(tmp_path):
    file = tmp_path / DIAGNOSTICS_FILE
    assert read_if_there(file) == []
    written = [
        diagnosis("task_1_seed1/global_step_2", {}, (0, 1)),
        diagnosis("task_0_seed1/global_step_2", {3: 0.5, 0: 0.25}),
        diagnosis("task_0_seed1/global_step_2", {}),
        diagnosis("task_0_seed1/global_step_2", {0: 0.1, 3: 0.2}),
    ]
    for one in written:
        append(file, one)
    assert read_if_there(file) == written
    assert by_checkpoint(written) == [written[3], written[0]]
    file.write_text(file.read_text() + '{"method": "ewc"}\n')
    with pytest.raises(DiagnosisError, match="line 5"):
        read_if_there(file)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UsageError, match="neither a run's folder with checkpoints"):
        diagnose.main([str(tmp_path)])
    with pytest.raises(UsageError, match="--frames 0"):
        diagnose.main([str(tmp_path), "--frames", "0"])
