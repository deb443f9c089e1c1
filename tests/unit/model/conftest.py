"""What tests of the model share."""

import pytest


@pytest.fixture(params=["small_policy", "autoregressive_policy"], ids=["oft", "autoregressive"])
def either(request):
    """The checkpoint of one small policy, then of the other."""
    return request.getfixturevalue(request.param)
