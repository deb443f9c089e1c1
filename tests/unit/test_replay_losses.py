"""Replay losses: numbers worked out by hand, and the published code's outputs."""


import numpy as np
import pytest
import torch

from rlinf.custom.loss import expert_cross_entropy, logits_mse
from tests.published import published_case


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
