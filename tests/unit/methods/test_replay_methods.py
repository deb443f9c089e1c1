"""Experience replay and dark experience replay on a small random policy, the stored logits of the latter, and losses by
hand and against the published code."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlinf.config.errors import UserError
from rlinf.config.schema import Config, MethodConfig, ReplayConfig
from rlinf.custom.loss import expert_cross_entropy, logits_mse
from rlinf.custom.methods import TaskContext, make_method
from rlinf.custom.replay.base_logits import logits_path
from rlinf.custom.replay.dataset import find_demonstrations
from rlinf.data import Observation
from rlinf.models import PolicySource
from rlinf.workers.logits import LogitsPrecomputeWorker, divide
from tests.published import published_case
from tests.small_policy import disturb, make_learner, make_rollouts, model_config, read_policy, write_policy
from tests.unit.methods.replay_demos import SUITE, write_hdf5


@pytest.fixture
def demonstrations(tmp_path):
    return write_hdf5(tmp_path / "demos", task_ids=range(10), num_demos=2, num_steps=4)


def _task(task_id=3, *, learnt_before=()):
    return TaskContext((task_id,), Path(), learnt_before, suite=SUITE, micro_batch=6, seed=11)


def _method(name, demonstrations, **replay):
    return make_method(MethodConfig(name, replay=ReplayConfig(demonstrations=str(demonstrations), **replay)))


def _precompute(checkpoint, demonstrations):
    config = Config(method=MethodConfig("der", replay=ReplayConfig(demonstrations=str(demonstrations))))
    config = replace(
        config,
        actor=replace(config.actor, model=model_config(checkpoint)),
        rollout=replace(config.rollout, precision="bf16", max_batch=3),
    )
    refs = find_demonstrations(config.method.replay, suite=SUITE, task_ids=None)
    worker = LogitsPrecomputeWorker(config, PolicySource(checkpoint, unnorm_key=SUITE, seed=3), num_threads=1)
    return worker.compute(refs), refs


@pytest.mark.parametrize(("name", "start", "drop"), [("er", 1.0, 0.9), ("der", 0.01, 0.7)])
def test_replay_lowers_its_loss(small_policy, demonstrations, name, start, drop):
    policy = disturb(read_policy(small_policy), 0.05)
    method = _method(name, demonstrations, coeff=1.0)
    learner = make_learner(policy, method, lr=5e-3, global_batch=24, micro_batch=6)
    method.on_task_start(_task(), policy)
    losses = [learner.update(make_rollouts(), seed=epoch)["train/loss/replay"] for epoch in range(8)]
    assert losses[0] > start
    assert losses[-1] < drop * losses[0]


def test_the_base_model_is_the_policy_without_its_adapter(small_policy):
    fresh, trained = read_policy(small_policy), disturb(read_policy(small_policy), 0.05)
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64, 3), dtype=np.uint8)
    inputs = fresh.prepare(Observation(images, np.zeros((2, 8), np.float32), ("open the drawer", "close it")))
    bins = torch.zeros((2, 56), dtype=torch.int64)
    before = trained.action_logits(inputs, bins)
    assert before.shape == (2, 56, 256)
    assert torch.equal(trained.base_logits(inputs, bins), fresh.action_logits(inputs, bins))
    assert not torch.allclose(before, fresh.action_logits(inputs, bins), atol=1e-3)
    assert torch.equal(trained.action_logits(inputs, bins), before), "the adapter is on again"
    assert all(p.requires_grad for modules in trained.trainable_modules().values() for p in modules)


def test_only_seen_tasks_are_replayed_when_asked(small_policy, demonstrations):
    policy = read_policy(small_policy)
    method = _method("er", demonstrations, tasks="seen")
    method.on_task_start(_task(), policy)
    assert method.loss_terms(policy) == {}, "nothing was learnt before the first task"
    method.on_task_start(_task(learnt_before=(8, 1)), policy)
    assert method.demonstrations.num_samples == 8
    assert {ref.task_id for ref in method.find(_task(learnt_before=(8, 1)))} == {1, 8}


def test_draws_go_on_where_an_interrupted_run_stopped(small_policy, demonstrations):
    policy = read_policy(small_policy)
    straight, resumed = _method("er", demonstrations), _method("er", demonstrations, batch_size=6)
    straight.on_task_start(_task(), policy)
    drawn = [straight.draw() for _ in range(3)]
    assert not np.array_equal(drawn[0], drawn[1])
    assert len(drawn[0]) == 6, "as many as the micro-batch"
    resumed.load_state_dict(straight.state_dict())
    resumed.on_task_start(_task(), policy)
    np.testing.assert_array_equal(resumed.draw(), straight.draw())
    another = _method("er", demonstrations)
    another.on_task_start(_task(4), policy)
    assert not np.array_equal(another.draw(), drawn[0])


@pytest.mark.parametrize("name", ["small_policy", "autoregressive_policy"])
def test_stored_logits_give_the_loss_of_the_base_model(request, demonstrations, name):
    """Token by token they are of the expert's tokens, which other targets are not."""
    checkpoint = request.getfixturevalue(name)
    computed, refs = _precompute(checkpoint, demonstrations)
    assert computed == len(refs) == 10
    policy = disturb(read_policy(checkpoint), 0.05)
    cached, live = (_method("der", demonstrations, coeff=0.5, cached_logits=flag) for flag in (True, False))
    losses = []
    for method in (cached, live):
        method.check(_task())
        method.on_task_start(_task(), policy)
        losses.append(method.loss_terms(policy)["replay"])
    assert losses[1] > 1e-3
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)
    if name == "autoregressive_policy":
        with pytest.raises(UserError, match="actions: they were computed for"):
            _method("der", demonstrations, cached_logits=True, targets="digitize").on_task_start(_task(), policy)


def test_precomputation_resumes_and_renews_what_is_stale(small_policy, demonstrations):
    _, refs = _precompute(small_policy, demonstrations)
    assert _precompute(small_policy, demonstrations)[0] == 0
    logits_path(refs[0]).unlink()
    logits_path(refs[1]).write_bytes(b"cut off")
    assert _precompute(small_policy, demonstrations)[0] == 2
    write_hdf5(demonstrations, task_ids=[4], num_steps=5)
    assert _precompute(small_policy, demonstrations)[0] == 1
    left = [path.name for path in demonstrations.rglob(".*.partial*")]
    assert left == []


def test_missing_logits_are_an_error_before_anything_starts(demonstrations):
    with pytest.raises(UserError, match=r"compute_base_logits_embodiment\.sh CONFIG_NAME"):
        _method("der", demonstrations, cached_logits=True).check(_task())


def test_stale_logits_are_refused_and_what_differs_is_named(small_policy, demonstrations, tmp_path):
    _precompute(small_policy, demonstrations)
    method = _method("der", demonstrations, cached_logits=True)
    policy = read_policy(small_policy)
    method.on_task_start(_task(), policy)

    other = tmp_path / "other"
    write_policy(other)
    config = other / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match=r"\n  model: they were computed for \w+, this run has"):
        method.on_task_start(_task(), read_policy(other))

    policy.processor.images = replace(policy.processor.images, means=((0.4, 0.4, 0.4), (0.5, 0.5, 0.5)))
    with pytest.raises(UserError, match=r"\n  image pipeline: they were computed for .*, this run has") as error:
        method.on_task_start(_task(), policy)
    assert "model:" not in str(error.value)

    write_hdf5(demonstrations, task_ids=[9], num_steps=3)
    with pytest.raises(UserError, match=r"\n  pictures: they were computed for 4x1x48x48x3 \w+, this run has 3x"):
        method.on_task_start(_task(), read_policy(small_policy))


def test_work_is_shared_out_by_frames(demonstrations):
    write_hdf5(demonstrations, task_ids=[0], num_steps=12)
    refs = find_demonstrations(ReplayConfig(demonstrations=str(demonstrations)), suite=SUITE, task_ids=None)
    shares = divide(refs, 2)
    assert sorted(ref.task_id for share in shares for ref in share) == list(range(10))
    assert [sum(ref.num_steps for ref in share) for share in shares] == [24, 24]


def test_cross_entropy_by_hand():
    # One sample, two tokens, two bins: probabilities 1/4 : 3/4 and 1/2 : 1/2.
    logits_BTV = torch.tensor([[[0.0, np.log(3.0)], [5.0, 5.0]]])
    loss = expert_cross_entropy(logits_BTV, torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx((np.log(4 / 3) + np.log(2)) / 2, rel=1e-6)


def test_mse_by_hand():
    loss = logits_mse(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 4.0]]]))
    assert loss.item() == pytest.approx((4 + 9) / 4)


def test_cross_entropy_equals_the_published_code():
    case = published_case("er_ce")
    end = int(case["cfg/vocab_size"])
    begin = end - int(case["cfg/n_action_bins"])
    logits = torch.from_numpy(case["in/intermediate_logits"]).requires_grad_()
    bins_BT = torch.from_numpy(case["in/expert_actions_tokens"]) - begin
    loss = float(case["cfg/bc_coeff"]) * expert_cross_entropy(logits[..., begin:end], bins_BT)
    loss.backward()
    assert loss.item() == pytest.approx(float(case["out/loss"]), rel=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), case["grad/logits"], atol=1e-8)


def test_mse_equals_the_published_code():
    case = published_case("der_mse")
    current = torch.from_numpy(case["in/current_logits"]).requires_grad_()
    loss = float(case["cfg/bc_coeff"]) * logits_mse(current, torch.from_numpy(case["in/reference_logits"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(case["out/loss"]), rel=1e-6)
    np.testing.assert_allclose(current.grad.numpy(), case["grad/current_logits"], atol=1e-9)
