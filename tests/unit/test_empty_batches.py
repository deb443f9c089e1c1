"""Learning from no samples is refused."""

import numpy as np
import pytest

from rlinf.config.schema import AlgorithmConfig
from rlinf.engines.experience import prepare_experience
from tests.small_policy import make_rollouts


@pytest.mark.parametrize("algorithm", [AlgorithmConfig(), AlgorithmConfig(adv_type="gae", loss_type="ppo")])
def test_learning_from_no_samples_is_refused(algorithm):
    rollouts = make_rollouts(critic=True).select(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="must have at least one sample, given none of 8 episodes"):
        prepare_experience(rollouts, algorithm)
