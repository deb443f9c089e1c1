"""What training changed: effective rank and size of the weights' change, and divergence from the base model."""

import json
import math

import pytest
import torch

from rlinf.cli import diagnose
from rlinf.cli.console import UsageError
from rlinf.config.schema import ReplayConfig
from rlinf.custom.methods import TaskContext
from rlinf.custom.replay.dataset import find_demonstrations, read_demonstration
from rlinf.diagnostics.divergence import divergence_from_base, expert_samples
from rlinf.diagnostics.fisher_energy import fisher_at, fisher_energy
from rlinf.diagnostics.weight_change import (
    adapter_changes,
    adapter_deltas,
    changes,
    effective_rank,
    means,
    whole_deltas,
)
from rlinf.reporting import ReportingError
from rlinf.reporting.diagnoses import Diagnosis, by_checkpoint, read
from rlinf.reporting.jsonlines import append_record
from rlinf.run_layout import DIAGNOSTICS_FILE
from tests.small_policy import make_learner, make_rollouts, read_policy, write_adapter
from tests.unit.methods.replay_demos import write_hdf5
from tests.unit.methods.trained_runs import write_run
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
    found = {change.name: change for change in adapter_changes(policy.module)}
    layers = dict(policy.module.named_modules())
    assert any(layers[name].get_base_layer().weight.dim() == 4 for name in found)
    for name, change in found.items():
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
    assert means(changes(whole_deltas(policy.module, base.module), base.module)) == (0.0, 0.0)
    make_learner(policy).update(make_rollouts(), seed=0)
    found = changes(whole_deltas(policy.module, base.module), base.module)
    rank, norm = means(found)
    assert rank > 4
    assert 0 < norm < 1
    matrices = {name: weight for name, weight in base.module.named_parameters() if weight.dim() > 1}
    sides = {name: min(weight.flatten(1).shape) for name, weight in matrices.items()}
    assert all(change.effective_rank <= sides[change.name] + 1e-6 for change in found)


def test_divergence_from_the_base_model_grows_with_training(small_policy, tmp_path):
    folder = write_hdf5(tmp_path, task_ids=[2], num_demos=1)
    (ref,) = find_demonstrations(ReplayConfig(demonstrations=str(folder)), suite="libero_spatial", task_ids=[2])
    demo, policy = read_demonstration(ref, cameras=["agentview"]), read_policy(small_policy)
    samples, on = expert_samples(ref, demo, policy, max_frames=4), {"temperature": 1.0, "device": torch.device("cpu")}
    seen = [divergence_from_base(policy, samples, **on)]
    learner = make_learner(policy, lr=0.01)
    for epoch in range(2):
        learner.update(make_rollouts(), seed=epoch)
        seen.append(divergence_from_base(policy, samples, **on))
    assert seen[0] == pytest.approx(0, abs=1e-6)
    assert 0 < seen[1] < seen[2]
    in_parts = divergence_from_base(policy, samples, **on, batch=3)
    assert in_parts == pytest.approx(seen[2], rel=1e-4)


def test_fisher_energy_compares_a_change_with_one_of_random_direction():
    """F = 4, 0 and 2 of three weights, in mean 2; the fourth has no information and lowers the mean to 1.5."""
    fisher = {"a": torch.tensor([4.0, 0.0]), "b": torch.tensor([2.0])}
    still = torch.zeros(1)

    def energy(a, b, c):
        return fisher_energy(fisher, [("a", torch.tensor(a)), ("b", torch.tensor(b)), ("c", torch.tensor(c))])

    assert energy([1.0, 0.0], [0.0], [0.0]) == pytest.approx(4 / 1.5)
    assert energy([0.0, 7.0], [0.0], [0.0]) == 0
    assert energy([-0.5, 0.5], [0.5], [0.5]) == pytest.approx(1), "all directions alike"
    assert energy([0.5, 0.0], [-1.0], [0.0]) == pytest.approx((4 * 0.25 + 2) / 1.25 / 1.5)
    assert energy([3.0, 0.0], [-6.0], [0.0]) == pytest.approx(energy([0.5, 0.0], [-1.0], [0.0])), "not of its size"
    assert energy([0.0, 0.0], [0.0], [0.0]) == 0
    assert fisher_energy({}, [("c", still + 1)]) == 0


def test_fisher_energy_of_an_adapter_is_that_of_the_weights_it_changes(small_policy, tmp_path):
    """The same change as an adapter, and counted into all weights: the information is the base model's own."""
    folder = write_hdf5(tmp_path, task_ids=[2], num_demos=1)
    (ref,) = find_demonstrations(ReplayConfig(demonstrations=str(folder)), suite="libero_spatial", task_ids=[2])
    demo, base = read_demonstration(ref, cameras=["agentview"]), read_policy(small_policy, is_lora=False)
    weights = {name: weight.detach().clone() for name, weight in base.module.named_parameters()}
    samples, task = expert_samples(ref, demo, base, max_frames=3), TaskContext((2,), tmp_path, temperature=1.3)
    fisher = fisher_at(base, samples, task)
    assert all(torch.equal(weight, weights[name]) for name, weight in base.module.named_parameters())
    again = fisher_at(base, samples, task)
    assert all(torch.equal(value, again[name]) for name, value in fisher.items()), "its actions are drawn alike"

    adapted = read_policy(small_policy, lora_path=write_adapter(small_policy, tmp_path / "adapter", seed=1))
    deltas = dict(adapter_deltas(adapted.module))
    assert deltas.keys() <= weights.keys()
    assert all(delta.shape == weights[name].shape for name, delta in deltas.items())
    by_hand = {name: fisher.get(name, torch.zeros_like(delta)).double() for name, delta in deltas.items()}
    flat_f = torch.cat([by_hand[name].flatten() for name in deltas])
    flat_d = torch.cat([delta.double().flatten() for delta in deltas.values()])
    expected = (flat_f * flat_d**2).sum() / (flat_d**2).sum() / flat_f.mean()
    assert fisher_energy(fisher, adapter_deltas(adapted.module)) == pytest.approx(float(expected), rel=1e-5)

    whole = read_policy(small_policy, is_lora=False)
    parameters = dict(whole.module.named_parameters())
    with torch.no_grad():
        for name, delta in deltas.items():
            parameters[name] += delta
    on_all = fisher_energy(fisher, whole_deltas(whole.module, base.module))
    count, information = sum(map(torch.numel, weights.values())), sum(float(f.double().sum()) for f in fisher.values())
    ratio = (count / information) / (flat_f.numel() / float(flat_f.sum()))
    assert on_all == pytest.approx(float(expected) * ratio, rel=1e-3)


def test_what_was_found_is_kept_beside_the_ledger(small_policy, tmp_path, capsys):
    demonstrations = write_hdf5(tmp_path / "demonstrations", task_ids=[2, 5], num_demos=1)
    checkpoint = write_run(small_policy, tmp_path / "logs", adapter_seed=1)
    run, kept, details = checkpoint.run_folder, tmp_path / "logs" / DIAGNOSTICS_FILE, tmp_path / "details.json"
    assert diagnose.main([str(run)]) == 0
    given = ["--demonstrations", str(demonstrations), "--tasks", "2,5", "--frames", "3", "--json", str(details)]
    assert diagnose.main([str(checkpoint.actor), *given]) == 0
    assert str(kept) in capsys.readouterr().out.splitlines()
    first, second = read(kept)
    assert (first.kl, sorted(second.kl)) == ({}, [2, 5])
    assert min(second.kl.values()) > 0
    assert (first.fisher_energy, sorted(second.fisher_energy)) == ({}, [2, 5])
    assert min(second.fisher_energy.values()) > 0
    given = ["--demonstrations", str(demonstrations), "--tasks", "2", "--frames", "3", "--no-fisher"]
    assert diagnose.main([str(checkpoint.actor), *given]) == 0
    assert read(kept)[2].fisher_energy == {}
    assert read(kept)[2].kl[2] == pytest.approx(second.kl[2])
    assert (second.effective_rank, second.relative_change) == (first.effective_rank, first.relative_change)
    assert 1 < second.effective_rank <= 4
    about = (second.method, second.suite, second.seed, second.learnt_tasks, second.checkpoint)
    assert about == ("sequential", "libero_spatial", 7, (2,), "task_2_seed7/global_step_3")
    assert len(json.loads(details.read_text())[0]["layers"]) > 10
    (checkpoint.actor / "lineage.json").unlink()
    with pytest.raises(UsageError, match=r"a run without lineage\.json"):
        diagnose.main([str(run)])


def test_adapters_merged_beneath_are_a_part_of_what_changed(small_policy, tmp_path):
    """One adapter on top of another that is merged: as far from the base model as all weights with both in them."""
    demonstrations = write_hdf5(tmp_path / "demonstrations", task_ids=[2], num_demos=1)
    earlier = write_adapter(small_policy, tmp_path / "earlier", seed=2)
    on_merged = write_run(small_policy, tmp_path / "logs", adapter_seed=1, merged=(earlier,))
    alone = write_run(small_policy, tmp_path / "alone", adapter_seed=1)
    given = ["--demonstrations", str(demonstrations), "--tasks", "2", "--frames", "3"]
    assert diagnose.main([str(on_merged.actor), str(alone.actor), *given]) == 0
    (both,), (last,) = (read(one.run_folder.parent / DIAGNOSTICS_FILE) for one in (on_merged, alone))

    base, trained = (read_policy(small_policy, is_lora=False) for _ in range(2))
    parameters = dict(trained.module.named_parameters())
    with torch.no_grad():
        for folder in (earlier, alone.actor):
            for name, delta in adapter_deltas(read_policy(small_policy, lora_path=folder).module):
                parameters[name] += delta
    changed = [one for one in changes(whole_deltas(trained.module, base.module), base.module) if one.relative_norm]
    assert (both.effective_rank, both.relative_change) == pytest.approx(means(changed), rel=1e-3)
    assert both.effective_rank > 4 > last.effective_rank, "of two adapters with rank 4"
    (ref,) = find_demonstrations(ReplayConfig(demonstrations=str(demonstrations)), suite="libero_spatial", task_ids=[2])
    samples = expert_samples(ref, read_demonstration(ref, cameras=["agentview"]), base, max_frames=3)
    expected = divergence_from_base(
        trained, samples, temperature=both.temperature, device=torch.device("cpu"), base=base
    )
    assert both.kl[2] == pytest.approx(expected, rel=1e-3)
    assert both.kl[2] != pytest.approx(last.kl[2], rel=0.05)
    assert both.fisher_energy[2] > 0


def diagnosis(checkpoint: str, kl: dict[int, float], learnt: tuple[int, ...] = (0,)) -> Diagnosis:
    return Diagnosis(
        method="ewc", suite="libero_spatial", seed=1, learnt_tasks=learnt, checkpoint=checkpoint, effective_rank=2.5,
        relative_change=0.01, temperature=1.0, frames=8, time="2026-05-04T10:00:00+00:00", kl=kl,
    )  # fmt: skip


def test_of_several_the_one_over_the_most_tasks_counts(tmp_path):
    file = tmp_path / DIAGNOSTICS_FILE
    assert read(file) == []
    written = [
        diagnosis("task_1_seed1/global_step_2", {}, (0, 1)),
        diagnosis("task_0_seed1/global_step_2", {3: 0.5, 0: 0.25}),
        diagnosis("task_0_seed1/global_step_2", {}),
        diagnosis("task_0_seed1/global_step_2", {0: 0.1, 3: 0.2}),
    ]
    for one in written:
        append_record(file, one)
    assert read(file) == written
    assert by_checkpoint(written) == [written[3], written[0]]
    file.write_text(file.read_text() + '{"method": "ewc"}\n')
    with pytest.raises(ReportingError, match="line 5"):
        read(file)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UsageError, match="neither a run's folder with checkpoints"):
        diagnose.main([str(tmp_path)])
    with pytest.raises(UsageError, match="--frames 0"):
        diagnose.main([str(tmp_path), "--frames", "0"])
