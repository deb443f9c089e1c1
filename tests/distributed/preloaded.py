"""What ranks import before they are forked."""

import openvla_oft.finetune  # noqa: F401
import tests.simple_cnn
import tests.small_policy  # noqa: F401
