"""The small policies that come with the repository: configurations name them, they load, and their tables are whole."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rlinf.config import load_config, resolve_model
from rlinf.models import Policy, PolicyInputs, PolicySource, load_policy
from tests.small_policy import LANGUAGE

MODELS = Path(__file__).parents[3] / "model"
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
OF_SUITE = {suite: f"tiny-openvla-oft-{suite.replace('_', '-')}" for suite in SUITES}
PICTURE = np.random.default_rng(0).integers(0, 256, (1, 1, 128, 128, 3), np.uint8)


def load(folder: Path, suite: str) -> Policy:
    config = load_config(f"crl_experiment/{suite}_grpo_tiny")
    return load_policy(
        config.actor.model, PolicySource(folder, unnorm_key=suite, seed=0, trains=False), base_dtype=torch.float32
    )


@pytest.mark.parametrize("suite", SUITES)
def test_each_suite_has_a_policy_and_a_configuration_that_names_it(suite):
    config = load_config(f"crl_experiment/{suite}_grpo_tiny")
    assert (
        resolve_model(config.actor.checkpoint_load_path, key="actor.checkpoint_load_path") == MODELS / OF_SUITE[suite]
    )
    assert config.rollout.model_dir == config.actor.checkpoint_load_path == config.actor.tokenizer.tokenizer_model
    assert config.env.train.max_episode_steps == config.env.eval.max_episode_steps


@pytest.mark.parametrize("suite", SUITES)
def test_it_acts_within_the_suites_bounds_and_is_no_random_policy(suite):
    policy = load(MODELS / OF_SUITE[suite], suite)
    uniforms = np.random.default_rng(0).random((1, *policy.chunk_shape))
    output = policy.act(PolicyInputs(torch.from_numpy(PICTURE), (LANGUAGE,)), temperature=1.0, uniforms_BCA=uniforms)
    assert output.env_actions_BCA.shape == (1, 8, 7)
    assert np.abs(output.env_actions_BCA).max() <= 1
    assert output.logprobs_BCA.mean() > -0.9 * np.log(256), "a fresh policy finds all 256 bins equally likely"


@pytest.mark.parametrize("suite", SUITES)
def test_it_is_small_and_says_where_it_comes_from(suite):
    folder = MODELS / OF_SUITE[suite]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 30e6
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert training["data"]["suite"] == suite
    assert len(training["data"]["tasks"]) == 10
    page = (folder / "README.md").read_text(encoding="utf-8")
    ((table_suite, row),) = re.findall(r"^\| `(\w+)`, \d+ steps \|(.+)\|$", page, re.MULTILINE)
    assert table_suite == suite
    *tasks, mean = (float(cell) for cell in row.split("|"))
    assert len(tasks) == 10
    assert mean == pytest.approx(sum(tasks) / 10, abs=0.051)
