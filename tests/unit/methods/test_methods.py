"""Continual-learning methods on a policy of two parameters, worked out by hand, and against published numbers."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlinf.config import ConfigError
from rlinf.config.schema import (
    AGEMConfig,
    EMAConfig,
    EWCConfig,
    KLConfig,
    L2Config,
    LwFConfig,
    OLoRAConfig,
    SIConfig,
    SLCAConfig,
)
from rlinf.custom import methods
from rlinf.custom.methods import METHODS, make_method
from rlinf.custom.methods.agem import AGEM
from rlinf.custom.methods.ema import ExponentialMovingAverage
from rlinf.custom.methods.ewc import EWC, per_sample_fisher, published_fisher
from rlinf.custom.methods.kl import KLToBase
from rlinf.custom.methods.l2 import L2Start
from rlinf.custom.methods.lwf import LwF
from rlinf.custom.methods.olora import OLoRA
from rlinf.custom.methods.parts.chunks import ActionChunks
from rlinf.custom.methods.parts.state import gather_state, read_state, write_state
from rlinf.custom.methods.si import SynapticIntelligence
from rlinf.custom.methods.slca import SLCA
from rlinf.models import PolicyInputs
from rlinf.models.lora import trainable_parameters
from rlinf.models.value_head import in_value_head
from rlinf.reporting.report.names import METHOD_NAMES
from rlinf.run_layout import METHOD_STATE
from tests.published import published_case
from tests.small_policy import read_policy
from tests.toy_policy import Score, ToyPolicy, toy_inputs, toy_rollouts, toy_task


def _features(*rows: tuple[float, float]) -> Tensor:
    """(B, 1, 2): one token per sample."""
    return torch.tensor(rows)[:, None, :]


def _bins(*bins: int) -> np.ndarray:
    return np.array(bins)[:, None, None]


def _all(rollouts) -> ActionChunks:
    return ActionChunks.of(rollouts, np.arange(rollouts.num_samples))


# --- EWC


def test_fisher_squares_each_sample_by_itself_at_the_training_temperature():
    # At w = 0 both bins have probability 1/2; scores (bin - 1/2) x / temperature: (1, 0), (0, -1/2), (-1/2, 0).
    policy = ToyPolicy(_features((4.0, 0.0), (0.0, 2.0), (2.0, 0.0)))
    samples = _all(toy_rollouts(_bins(1, 0, 0)))
    fisher = per_sample_fisher(policy, samples, toy_task(temperature=2.0))
    assert fisher["w"].tolist() == pytest.approx([(1 + 1 / 4) / 3, (1 / 4) / 3])
    assert policy.module.w.grad is None, "the pass leaves no gradient behind"


def test_published_fisher_differs_and_cancels():
    # Equal pictures, opposite actions: scores are +1/2 and -1/2, their mean is zero, and so is its square.
    policy = ToyPolicy(_features((1.0, 0.0), (1.0, 0.0)))
    samples = _all(toy_rollouts(_bins(1, 0)))
    assert published_fisher(policy, samples, toy_task())["w"].tolist() == [0, 0]
    assert per_sample_fisher(policy, samples, toy_task())["w"].tolist() == pytest.approx([0.25, 0])


def test_fisher_leaves_out_actions_that_were_not_carried_out():
    features = torch.tensor([[[2.0, 0.0], [0.0, 9.0]], [[2.0, 0.0], [0.0, 2.0]]])
    rollouts = toy_rollouts(np.ones((2, 2, 1)), executed_SC=np.array([[True, False], [True, True]]))
    fisher = per_sample_fisher(ToyPolicy(features), _all(rollouts), toy_task())
    assert fisher["w"].tolist() == pytest.approx([(1 + 1) / 3, 1 / 3]), "three tokens count"


class _ReferenceNet(nn.Module):
    """The net of the fixture: a frozen layer on a trained low-rank one."""

    def __init__(self, case: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.lora_A, self.lora_B, self.base = nn.Linear(5, 3, bias=False), nn.Linear(3, 4, bias=False), nn.Linear(4, 2)
        self.load_state_dict({name: torch.from_numpy(case[f"in/param_{name}"]) for name in self.state_dict()})
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(self.lora_B(self.lora_A(x)))


def test_fisher_equals_the_reference():
    reference = published_case("fisher")
    net = _ReferenceNet(reference)
    x_BTF, target_BT = torch.from_numpy(reference["in/x"]), reference["in/target"]
    single = ToyPolicy(x_BTF.reshape(12, 1, 5), net)
    right = per_sample_fisher(single, _all(toy_rollouts(target_BT.reshape(12, 1, 1))), toy_task())
    several = ToyPolicy(x_BTF, net)
    published = published_fisher(several, _all(toy_rollouts(target_BT[..., None])), toy_task(micro_batch=1))
    for name in ("lora_A.weight", "lora_B.weight"):
        torch.testing.assert_close(right[name], torch.from_numpy(reference[f"out/correct_per_sample_{name}"]))
        torch.testing.assert_close(published[name], torch.from_numpy(reference[f"out/ORIGINAL_BUGGY_{name}"]))
    assert right.keys() == published.keys() == {"lora_A.weight", "lora_B.weight"}


def test_penalty_gradient_equals_the_reference():
    reference = published_case("ewc_penalty")
    policy = ToyPolicy(torch.zeros(1, 1, 5), _ReferenceNet(reference))
    method = EWC(EWCConfig(coeff=float(reference["cfg/lambda_ewc"])))
    names = ("lora_A.weight", "lora_B.weight")
    method.fisher = {name: torch.from_numpy(reference[f"in/fisher_{name}"]) for name in names}
    method.anchor = {name: torch.from_numpy(reference[f"in/old_{name}"]) for name in names}
    parameters = dict(policy.module.named_parameters())
    parameters[names[1]].grad = torch.ones_like(parameters[names[1]])
    method.on_backward(policy)
    expected = {name: torch.from_numpy(reference[f"grad/{name}"]) for name in names}
    torch.testing.assert_close(parameters[names[0]].grad, expected[names[0]])
    torch.testing.assert_close(parameters[names[1]].grad, expected[names[1]] + 1)
    assert parameters["base.weight"].grad is None


def _learn(method, policy, task_id: int, rollouts, folder: Path, previous: Path | None) -> Path:
    """Start and end a task; what it stores goes into a folder of its own."""
    task = toy_task(task_id, learnt_before=tuple(range(task_id)) if previous else (), previous=previous)
    method.on_task_start(task, policy)
    method.on_task_end(task, policy, rollouts)
    folder.mkdir()
    write_state(folder, gather_state(method.state_dict()))
    return folder


def test_fisher_sums_over_tasks_and_the_anchor_moves(tmp_path):
    policy = ToyPolicy(_features((2.0, 0.0)))
    first = _learn(EWC(EWCConfig()), policy, 0, toy_rollouts(_bins(1)), tmp_path / "0", None)  # F = (1, 0) at (0, 0)
    policy = ToyPolicy(_features((0.0, 4.0)), Score((0.5, 0.0)))
    second = _learn(EWC(EWCConfig()), policy, 1, toy_rollouts(_bins(0)), tmp_path / "1", first)  # F = (0, 4)
    method = EWC(EWCConfig(coeff=10.0))
    method.on_task_start(toy_task(2, learnt_before=(0, 1), previous=second), policy)
    assert method.fisher["w"].tolist() == [1, 4]
    assert method.anchor["w"].tolist() == [0.5, 0]
    with torch.no_grad():
        policy.module.w.copy_(torch.tensor([1.0, 0.25]))
    method.on_backward(policy)
    assert policy.module.w.grad.tolist() == [2 * 10 * 1 * 0.5, 2 * 10 * 4 * 0.25]


def test_first_task_and_adapters_from_elsewhere_have_no_penalty(tmp_path):
    policy = ToyPolicy(_features((1.0, 0.0)))
    for task in (toy_task(0), toy_task(0, previous=tmp_path)):
        method = EWC(EWCConfig())
        method.on_task_start(task, policy)
        method.on_backward(policy)
        assert policy.module.w.grad is None
        assert method.state_dict() == {}


@pytest.mark.parametrize(
    "make",
    [lambda: EWC(EWCConfig()), lambda: SynapticIntelligence(SIConfig()), lambda: AGEM(AGEMConfig())],
    ids=["ewc", "si", "agem"],
)
def test_what_earlier_tasks_should_have_left_is_asked_for_by_name(make, tmp_path):
    task = toy_task(1, learnt_before=(0,), previous=tmp_path)
    with pytest.raises(ConfigError, match=rf"{METHOD_STATE} does not exist"):
        make().check(task)
    policy = ToyPolicy(_features((1.0, 0.0)))
    folder = _learn(make(), policy, 0, toy_rollouts(_bins(1)), tmp_path / "0", None)
    make().check(replace(task, previous=folder))
    with pytest.raises(ConfigError, match=r"of the tasks \[0\]; missing: \[3\]"):
        make().check(toy_task(1, learnt_before=(0, 3), previous=folder))
    with pytest.raises(ConfigError, match=r"earlier tasks \[0\], but their adapters are merged into the base model"):
        make().check(toy_task(1, learnt_before=(0,)))


def test_what_several_names_share_is_stored_under_each(tmp_path):
    weights = torch.arange(6.0)
    state = {"start": weights, "best": weights, "corner": weights.view(2, 3)[:, 1:]}
    write_state(tmp_path, gather_state(state))
    stored = read_state(tmp_path)
    assert {name: value.tolist() for name, value in stored.items()} == {n: v.tolist() for n, v in state.items()}


def test_state_of_another_model_is_refused(tmp_path):
    folder = _learn(EWC(EWCConfig()), ToyPolicy(_features((1.0, 0.0))), 0, toy_rollouts(_bins(1)), tmp_path / "0", None)
    larger = ToyPolicy(torch.ones(1, 1, 3), Score((0.0, 0.0, 0.0)))
    with pytest.raises(ConfigError, match=r"fisher\.w of shape \(2,\)"):
        EWC(EWCConfig()).on_task_start(toy_task(1, learnt_before=(0,), previous=folder), larger)


# --- SLCA


def test_slca_gives_every_module_its_rate():
    policy = ToyPolicy(torch.zeros(1, 1, 5), nn.ModuleDict({name: nn.Linear(1, 1) for name in ("a", "b", "c")}))
    policy.part_of = lambda name: {"a": "vision", "b": "llm", "c": "head"}[name[0]]
    groups = SLCA(SLCAConfig(vision=1.0, llm=2.0, head=3.0)).param_groups(policy, 9.0)
    assert {group.name: (group.lr, len(group.params)) for group in groups} == {
        "vision": (1.0, 2),
        "llm": (2.0, 2),
        "head": (3.0, 2),
    }


# --- A-GEM


def _with_memory(bin_: int) -> tuple[AGEM, ToyPolicy]:
    """One remembered sample x = (1, 0); at w = 0 its loss has the gradient ((1/2 - bin), 0)."""
    policy = ToyPolicy(_features((1.0, 0.0)))
    method = AGEM(AGEMConfig())
    method.on_task_start(toy_task(0), policy)
    method.on_task_end(toy_task(0), policy, toy_rollouts(_bins(bin_)))
    return method, policy


def test_agem_projects_only_what_opposes_the_memory():
    method, policy = _with_memory(1)
    policy.module.w.grad = torch.tensor([1.0, 1.0])  # descends against the memory's (-1/2, 0)
    method.on_backward(policy)
    assert policy.module.w.grad.tolist() == pytest.approx([0.0, 1.0])
    policy.module.w.grad = torch.tensor([-1.0, 1.0])
    method.on_backward(policy)
    assert policy.module.w.grad.tolist() == [-1.0, 1.0]


def test_agem_remembers_successes_across_runs(tmp_path):
    policy = ToyPolicy(_features((1.0, 0.0), (0.0, 1.0)))
    first = _learn(AGEM(AGEMConfig()), policy, 0, toy_rollouts(_bins(1, 1)), tmp_path / "0", None)
    failed = toy_rollouts(_bins(0, 0), won=False)
    second = _learn(AGEM(AGEMConfig()), policy, 1, failed, tmp_path / "1", first)
    third = _learn(AGEM(AGEMConfig(memory_per_task=1)), policy, 2, toy_rollouts(_bins(0, 0)), tmp_path / "2", second)
    method = AGEM(AGEMConfig())
    method.on_task_start(toy_task(3, learnt_before=(0, 1, 2), previous=third), policy)
    assert method.memory is not None
    assert method.memory.bins_MCA.flatten().tolist() == [1, 1, 0]
    assert method.memory.languages == ("lift",) * 3
    assert method.tasks == (0, 1, 2)


def test_agem_draws_go_on_after_an_interruption():
    policy = ToyPolicy(torch.arange(16.0).view(8, 1, 2))
    rollouts = toy_rollouts(np.ones((8, 1, 1)))

    def gradients(method: AGEM, count: int) -> list[list[float]]:
        found = []
        for _ in range(count):
            policy.module.w.grad = torch.tensor([1.0, 0.5])
            method.on_backward(policy)
            found.append(policy.module.w.grad.tolist())
        return found

    method = AGEM(AGEMConfig(batch_size=2))
    method.on_task_start(toy_task(0), policy)
    method.on_task_end(toy_task(0), policy, rollouts)
    memory = method.memory
    straight = gradients(method, 2)
    state = gather_state(method.state_dict())
    straight += gradients(method, 2)
    resumed = AGEM(AGEMConfig(batch_size=2))
    resumed.load_state_dict(state)
    resumed.on_task_start(toy_task(0), policy)
    resumed.memory = memory
    assert gradients(resumed, 2) == straight[2:]
    assert len({tuple(gradient) for gradient in straight}) > 1, "every step draws anew"


# --- LwF


def _divergence(method: LwF, policy: ToyPolicy, executed: list[list[bool]]) -> Tensor:
    sampled = torch.zeros((len(executed), len(executed[0]), 1), dtype=torch.int64)
    method.before_forward(policy, toy_inputs(range(len(executed))), sampled, torch.tensor(executed))
    return method.loss_terms(policy)["lwf"]


def test_lwf_is_the_divergence_from_the_previous_policy():
    policy = ToyPolicy(_features((1.0, 0.0)))
    method = LwF(LwFConfig(coeff=2.0))
    method.on_task_start(toy_task(1), policy)
    assert _divergence(method, policy, [[True]]).item() == pytest.approx(0)
    with torch.no_grad():
        policy.module.w.copy_(torch.tensor([math.log(3), 1.0]))  # probability of bin 1: 3/4, before 1/2
    loss = _divergence(method, policy, [[True]])
    assert loss.item() == pytest.approx(2 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)))
    assert policy.module.w.tolist() == pytest.approx([math.log(3), 1.0]), "the weights are back"
    loss.backward()
    assert policy.module.w.grad.tolist() == pytest.approx([2 * (0.75 - 0.5), 0])
    assert _divergence(method, policy, [[False]]).item() == 0


def test_lwf_keeps_the_previous_policy_over_an_interruption():
    policy = ToyPolicy(_features((1.0, 0.0)))
    method = LwF(LwFConfig())
    method.on_task_start(toy_task(1), policy)
    state = gather_state(method.state_dict())
    with torch.no_grad():
        policy.module.w.add_(1)
    resumed = LwF(LwFConfig())
    resumed.load_state_dict(state)
    resumed.on_task_start(toy_task(1), policy)
    assert resumed.previous["w"].tolist() == [0, 0]


# --- KL to the base


class _WithBase(ToyPolicy):
    """The base model gives bin 1 a probability of 1/2."""

    def base_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        return torch.zeros_like(self.action_logits(inputs, bins_BT))


def test_kl_is_the_divergence_from_the_base_model_at_the_training_temperature():
    policy = _WithBase(_features((1.0, 0.0)), Score((2 * math.log(3), 0.0)))  # at temperature 2, bin 1 has 3/4
    method = KLToBase(KLConfig(coeff=2.0))
    method.on_task_start(toy_task(1, temperature=2.0), policy)
    method.before_forward(policy, toy_inputs([0]), torch.zeros((1, 1, 1), dtype=torch.int64), torch.tensor([[True]]))
    loss = method.loss_terms(policy)["kl"]
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert loss.item() == pytest.approx(2 * divergence)
    loss.backward()  # d KL / d logit = p (log p/q - KL), a logit being w / 2
    assert policy.module.w.grad.tolist() == pytest.approx([2 * 0.75 * (math.log(0.75 / 0.5) - divergence) / 2, 0])


def test_kl_is_annealed_over_the_steps_of_a_task_and_goes_on_after_an_interruption():
    policy, method = _WithBase(_features((1.0, 0.0))), KLToBase(KLConfig(coeff=1.0, anneal_steps=4))
    seen = []
    for _ in range(6):
        seen.append(method.coeff)
        method.on_backward(policy)
    assert seen == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    resumed, method.num_steps = KLToBase(method.config), 3
    resumed.load_state_dict(gather_state(method.state_dict()))
    assert resumed.coeff == 0.25


def test_kl_asks_for_a_base_model():
    policy, method = ToyPolicy(_features((1.0, 0.0))), KLToBase(KLConfig())
    with pytest.raises(ConfigError, match="which ToyPolicy does not give"):
        method.loss_terms(policy)


# --- L2 to the start


def test_l2_pulls_towards_where_the_sequence_started(tmp_path):
    policy = ToyPolicy(_features((1.0, 0.0)), Score((1.0, 2.0)))
    folder = _learn(L2Start(L2Config()), policy, 0, toy_rollouts(_bins(1)), tmp_path / "0", None)
    with torch.no_grad():
        policy.module.w.copy_(torch.tensor([1.5, 1.0]))
    method = L2Start(L2Config(coeff=0.1))
    method.on_task_start(toy_task(1, learnt_before=(0,), previous=folder), policy)
    method.on_backward(policy)
    assert policy.module.w.grad.tolist() == pytest.approx([2 * 0.1 * 0.5, 2 * 0.1 * -1.0])


@pytest.mark.parametrize(
    "method", [L2Start(L2Config()), SynapticIntelligence(SIConfig()), ExponentialMovingAverage(EMAConfig())]
)
def test_what_estimates_returns_is_left_to_learn(method, small_policy):
    policy = read_policy(small_policy, critic=True)
    assert any(in_value_head(name) for name in trainable_parameters(policy.module))
    method.on_task_start(toy_task(), policy)
    for parameter in trainable_parameters(policy.module).values():
        parameter.grad = torch.ones_like(parameter)
    method.on_backward(policy)
    assert method.state_dict()
    assert not [name for name in method.state_dict() if in_value_head(name)]


# --- Synaptic intelligence


def _steps(method, policy, *steps: tuple[list[float], list[float]]) -> None:
    """Optimizer steps, each a gradient and the weights that it leads to."""
    for gradient, weights in steps:
        policy.module.w.grad = torch.tensor(gradient)
        method.on_backward(policy)
        with torch.no_grad():
            policy.module.w.copy_(torch.tensor(weights))


def test_si_holds_what_earlier_tasks_gained_by(tmp_path):
    config = SIConfig(coeff=0.25, damping=0.5)
    policy = ToyPolicy(_features((1.0, 0.0)), Score((0.0, 0.0)))
    previous: Path | None = None
    # The second weight lowers the loss by 1/4 and raises it by 1/2, so the first task does not hold it.
    learnt = [
        (([2.0, -1.0], [-0.5, 0.25]), ([1.0, 2.0], [-1.0, 0.5])),  # gains 1 + 1/2 and 1/4 - 1/2, changes -1 and 1/2
        (([0.0, 3.0], [-1.0, 0.0]),),  # gains 0 and 3/2, changes 0 and -1/2
    ]
    for task_id, steps in enumerate(learnt):
        method = SynapticIntelligence(config)
        task = toy_task(task_id, learnt_before=tuple(range(task_id)), previous=previous)
        method.on_task_start(task, policy)
        _steps(method, policy, *steps)
        method.on_task_end(task, policy, toy_rollouts(_bins(1)))
        previous = tmp_path / str(task_id)
        previous.mkdir()
        write_state(previous, gather_state(method.state_dict()))
    method = SynapticIntelligence(config)
    method.on_task_start(toy_task(2, learnt_before=(0, 1), previous=previous), policy)
    assert method.importance["w"].tolist() == [1.5 / (1 + 0.5), 1.5 / (0.25 + 0.5)]
    _steps(method, policy, ([0.0, 0.0], [1.0, 2.0]), ([0.0, 0.0], [0.0, 1.0]))
    assert policy.module.w.grad.tolist() == [2 * 0.25 * 1 * 2, 2 * 0.25 * 2 * 2]
    assert method.state_dict()["gain.w"].tolist() == [0, 0], "what the penalty does is no gain"


def test_si_counts_on_after_an_interruption_and_in_more_epochs(tmp_path):
    policy = ToyPolicy(_features((1.0, 0.0)), Score((0.0, 0.0)))
    first = SynapticIntelligence(SIConfig())
    first.on_task_start(toy_task(0), policy)
    _steps(first, policy, ([2.0, -1.0], [-0.5, 0.25]))
    state = gather_state(first.state_dict())
    assert state["tasks"].tolist() == []
    first.on_task_end(toy_task(0), policy, toy_rollouts(_bins(1)))
    for left in (state, gather_state(first.state_dict())):
        with torch.no_grad():
            policy.module.w.copy_(torch.tensor([-0.5, 0.25]))
        resumed = SynapticIntelligence(SIConfig())
        resumed.load_state_dict(left)
        resumed.on_task_start(toy_task(0), policy)
        _steps(resumed, policy, ([1.0, -2.0], [-1.0, 0.5]))
        assert policy.module.w.grad.tolist() == [1, -2], "nothing was learnt before"
        resumed.on_task_end(toy_task(0), policy, toy_rollouts(_bins(1)))
        stored = resumed.state_dict()
        assert {name: value.tolist() for name, value in stored.items()} == {
            "start.w": [0, 0],
            "gain.w": [1 + 0.5, 0.25 + 0.5],
            "tasks": [0],
        }


# --- EMA


def test_what_a_task_leaves_is_the_moving_average_of_its_weights():
    policy = ToyPolicy(_features((1.0, 0.0)), Score((0.0, 8.0)))
    method = ExponentialMovingAverage(EMAConfig(decay=0.75))
    method.on_task_start(toy_task(0), policy)
    for step in (4.0, 8.0):
        method.on_backward(policy)
        with torch.no_grad():
            policy.module.w[0] = step
        if step == 4.0:
            resumed = ExponentialMovingAverage(EMAConfig(decay=0.75))
            resumed.load_state_dict(gather_state(method.state_dict()))
            resumed.on_task_start(toy_task(0), policy)
    for continued in (method, resumed):
        if continued is resumed:  # goes on where the first was after one step
            with torch.no_grad():
                policy.module.w.copy_(torch.tensor([4.0, 8.0]))
            resumed.on_backward(policy)
            with torch.no_grad():
                policy.module.w[0] = 8.0
        continued.on_task_end(toy_task(0), policy, toy_rollouts(_bins(1)))
        assert policy.module.w.tolist() == [0.25 * (0.75 * 4 + 8), 8]


# --- O-LoRA


class _Adapted(nn.Module):
    """A layer's A and B, named as PEFT names them."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.layer = nn.ModuleDict({"lora_A": nn.ModuleDict({"default": nn.Linear(3, len(rows), bias=False)})})
        self.layer["lora_A"]["default"].weight = nn.Parameter(torch.tensor(rows))


def _write_a(folder: Path, rows: list[list[float]]) -> Path:
    folder.mkdir()
    save_file({"layer.lora_A.weight": torch.tensor(rows)}, folder / "adapter_model.safetensors")
    return folder


def test_olora_keeps_rows_out_of_those_of_all_earlier_tasks(tmp_path):
    policy = ToyPolicy(_features((1.0, 0.0)), _Adapted([[1.0, 2.0, 5.0]]))
    earlier = (_write_a(tmp_path / "0", [[1.0, 0.0, 0.0]]), _write_a(tmp_path / "1", [[0.0, 3.0, 0.0]]))
    method = OLoRA(OLoRAConfig(coeff=0.1))
    method.on_task_start(replace(toy_task(2, learnt_before=(0, 1)), merged=earlier), policy)
    method.on_backward(policy)
    # The penalty is 0.1 (1 * 1)^2 + 0.1 (3 * 2)^2; its gradient 0.2 (a.e) e for each e.
    gradient = policy.module.layer["lora_A"]["default"].weight.grad
    assert gradient.tolist() == [[pytest.approx(0.2), pytest.approx(3.6), 0]]
    first = OLoRA(OLoRAConfig())
    first.on_task_start(toy_task(0), policy)
    assert first.earlier == {}
    other = replace(toy_task(1), merged=(tmp_path / "2",))
    (tmp_path / "2").mkdir()
    save_file({"other.lora_A.weight": torch.zeros(1, 3)}, tmp_path / "2" / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="shares no layer"):
        first.on_task_start(other, policy)


# --- all


def test_samples_survive_a_file(tmp_path):
    samples = _all(toy_rollouts(np.arange(6).reshape(2, 3, 1), executed_SC=np.array([[1, 1, 0], [1, 0, 0]], np.bool_)))
    write_state(tmp_path, samples.tensors())
    back = ActionChunks.from_tensors(read_state(tmp_path))
    assert back.languages == samples.languages
    assert back.num_tokens == samples.num_tokens == 3
    for name in ("frames_MNHWC", "bins_MCA", "executed_MC"):
        assert torch.equal(getattr(back, name), getattr(samples, name))


def test_a_run_is_refused_before_anything_is_started(tmp_path):
    from rlinf.config import load_config
    from rlinf.runners.embodied import RunState, task_context

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).touch()
    start = f"actor.model.lora_path={tmp_path}"
    config = load_config("crl_experiment/libero_spatial_grpo_tiny", ["method=ewc", "env.fixed_task_ids=[1]", start])
    state = RunState(tmp_path / "run", None, (1,), (0,), missing_base=(), missing_after=("libero_spatial",))
    task = task_context(config, state)
    assert task.previous == tmp_path
    assert task.temperature == config.algorithm.sampling_params.temperature_train
    with pytest.raises(ConfigError, match=rf"earlier tasks \[0\], but {tmp_path / METHOD_STATE} does not exist"):
        make_method(config.method).check(task)


def test_every_method_has_a_file_and_nothing_else_is_among_them():
    there = {path.stem for path in Path(methods.__file__).parent.glob("*.py")}
    assert there == {"__init__", "base"} | METHODS.keys() - {"sequential"}


def test_every_method_has_a_name_for_people():
    assert METHODS.keys() - METHOD_NAMES.keys() == set()
