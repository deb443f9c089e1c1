"""A learner on an FSDP2 policy of one rank: what hooks see, and how often the adapter is collected."""

import pytest
import torch
from torch.distributed.tensor import DTensor

from rlinf.custom.methods import ContinualMethod
from rlinf.engines.fsdp import gather_trainable, shard
from rlinf.models import PolicyInputs
from rlinf.models.lora import trainable_parameters
from tests.small_policy import LANGUAGE, disturb, make_learner, make_rollouts, read_policy


class Watching(ContinualMethod):
    """Notes whether parameters are shards in each hook."""

    def __init__(self):
        self.seen = {}

    def look(self, hook, policy):
        shards = all(isinstance(p, DTensor) for p in trainable_parameters(policy.module).values())
        self.seen.setdefault(hook, []).append(shards)

    def on_backward(self, policy):
        self.look("on_backward", policy)


class Reading(Watching):
    """One that looks at parameters between the passes; its penalty is right on shards."""

    def before_forward(self, policy, inputs, bins_SCA, executed_SC):
        self.look("before_forward", policy)

    def loss_terms(self, policy):
        self.look("loss_terms", policy)
        parameters = trainable_parameters(policy.module).values()
        return {"size": 1e-3 * sum(p.to_local().square().sum() for p in parameters)}


class Running(Reading):
    """One that only runs the policy."""

    reads_parameters = False

    def loss_terms(self, policy):
        return {}


def learner_of(checkpoint, method, mesh=None, **options):
    policy = disturb(read_policy(checkpoint), 0.1)
    if mesh is not None:
        shard(policy.module, policy.units(), mesh, param_dtype="fp32", reshard_after_forward=True, **options)
    return make_learner(policy, method, micro_batch=4)


def train(checkpoint, method, mesh=None, **options):
    learner = learner_of(checkpoint, method, mesh, **options)
    learner.update(make_rollouts(), seed=1)
    return learner


def assert_same_weights(left, right):
    left, right = gather_trainable(left.policy.module), gather_trainable(right.policy.module)
    for name, value in left.items():
        torch.testing.assert_close(torch.from_numpy(value), torch.from_numpy(right[name]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [Watching, Reading])
@pytest.mark.parametrize("shard_frozen", [False, True])
def test_hooks_see_shards(small_policy, mesh, method, shard_frozen):
    learner = train(small_policy, method(), mesh, shard_frozen=shard_frozen)
    seen = learner.method.seen
    assert all(seen["on_backward"])
    if method is Reading:
        assert len(seen["loss_terms"]) >= 2
        assert all(seen["loss_terms"] + seen["before_forward"])
    assert all(isinstance(p, DTensor) for p in trainable_parameters(learner.policy.module).values())


@pytest.mark.parametrize("method", [Watching, Running])
def test_weights_are_collected_once_for_all_micro_batches(small_policy, mesh, collected, method):
    sharded = train(small_policy, method(), mesh)
    steps = sharded.num_updates
    assert len(collected) == steps
    if method is Running:
        assert len(sharded.method.seen["before_forward"]) > steps
    assert_same_weights(sharded, train(small_policy, ContinualMethod()))


def test_a_method_that_reads_parameters_has_them_sharded_again(small_policy, mesh, collected):
    learner = train(small_policy, Reading(), mesh)
    assert len(collected) == 2 * len(learner.method.seen["loss_terms"])


def test_forward_passes_after_an_update_leave_shards(small_policy, mesh):
    """Methods run the policy between updates, and weights are read after that."""
    learner = train(small_policy, Watching(), mesh)
    inputs = PolicyInputs(torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8), (LANGUAGE,) * 2)
    with torch.no_grad():
        learner.policy.evaluate_actions(inputs, torch.zeros(2, 8, 7, dtype=torch.long), temperature=1.0)
    assert all(isinstance(p, DTensor) for p in trainable_parameters(learner.policy.module).values())


class ReadingAgain(Running):
    """A subclass that looks at parameters, of a method that does not."""

    def loss_terms(self, policy):
        self.look("loss_terms", policy)
        return {}


def test_a_subclass_does_not_inherit_that_nothing_is_read(small_policy, mesh):
    assert [kind().needs_shards() for kind in (Watching, Reading, Running, ReadingAgain)] == [False, True, False, True]
    assert all(train(small_policy, ReadingAgain(), mesh).method.seen["loss_terms"])


class Failing(Running):
    """Breaks off in the second micro-batch."""

    reads_parameters = False

    def loss_terms(self, policy):
        self.seen["loss_terms"] = [*self.seen.get("loss_terms", []), True]
        if len(self.seen["loss_terms"]) == 2:
            raise ArithmeticError("on purpose")
        return {}


def test_an_update_that_breaks_off_leaves_shards(small_policy, mesh):
    learner = learner_of(small_policy, Failing(), mesh)
    with pytest.raises(ArithmeticError, match="on purpose"):
        learner.update(make_rollouts(), seed=1)
    assert all(isinstance(p, DTensor) for p in trainable_parameters(learner.policy.module).values())
