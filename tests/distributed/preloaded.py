"""What ranks import before they are forked."""

import tests.simple_cnn
import tests.small_policy  # noqa: F401
