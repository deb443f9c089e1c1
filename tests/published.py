"""Outputs of the published code, where they are."""

import os
from pathlib import Path

import numpy as np
import pytest

REFERENCE = Path(os.environ.get("OPENVLA_REFERENCE", Path(__file__).parents[2] / "shared/fixtures/openvla_reference"))


def published_case(name: str) -> dict[str, np.ndarray]:
    """Inputs, settings and outputs of one of its functions, by name; the test is skipped where they are not here."""
    path = REFERENCE / "algorithms.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not here; OPENVLA_REFERENCE names its folder")
    with np.load(path) as arrays:
        return {key.removeprefix(f"{name}/"): arrays[key] for key in arrays.files if key.startswith(f"{name}/")}
