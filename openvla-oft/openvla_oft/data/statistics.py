"""Action statistics as OpenVLA writes them to ``dataset_statistics.json``, with bounds that suit a scripted expert.

OpenVLA maps [q01, q99] of each motion dimension to [-1, 1] and cuts that into 255 bins. For human demonstrations q01
and q99 are the 1 % and 99 % quantiles. A scripted expert saturates at +-1, is exactly zero for long, and may never move
some dimension, so plain quantiles can coincide (encoding then divides by 1e-8) and put zero, its most frequent action,
between two bin centres: a policy told "stay" would drift. Hence ``symmetric`` bounds by default,
q99 = -q01 = max(|1 %|, |99 %|): zero is then exactly the centre of the middle bin. The true quantiles are kept beside
them as ``quantile_01`` and ``quantile_99``.

Shapes: F frames, A = 7 action dimensions. The gripper is stored OpenVLA's way, 0 = closed and 1 = open, and is not
normalised.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_oft.data.demonstration import GRIPPER
from transformers_openvla_oft.model.action_tokens import RANGE_EPS, gripper_from_env

ACTION_BOUNDS = ("symmetric", "quantile", "unit")
MIN_BOUND = 0.05
"""A dimension that hardly moves gets at least this bound, so that bins never shrink to nothing."""

Statistics = dict[str, dict[str, list[float] | list[bool]] | int]


def action_statistics(
    actions_FA: NDArray[np.float32], *, num_trajectories: int, bounds: str = "symmetric"
) -> Statistics:
    """Statistics of environment actions (gripper -1 open, +1 close) for one key of ``dataset_statistics.json``."""
    values_FA = actions_FA.astype(np.float64)
    values_FA[:, GRIPPER] = gripper_from_env(torch.from_numpy(values_FA[:, GRIPPER])).numpy()
    low_A, high_A = np.quantile(values_FA, 0.01, axis=0), np.quantile(values_FA, 0.99, axis=0)
    q01_A, q99_A = low_A.copy(), high_A.copy()
    motion = slice(0, GRIPPER)
    if bounds == "unit":
        q01_A[motion], q99_A[motion] = -1.0, 1.0
    elif bounds == "symmetric":
        q99_A[motion] = _symmetric_bound(low_A[motion], high_A[motion], np.abs(values_FA[:, motion]).max(axis=0))
        q01_A[motion] = -q99_A[motion]
    else:
        flat = high_A[motion] - low_A[motion] < 2 * MIN_BOUND / 255
        if flat.any():
            raise ValueError(
                f"action bounds 'quantile': dimensions {np.flatnonzero(flat).tolist()} have (nearly) equal 1 % and "
                f"99 % quantiles; use 'symmetric' or 'unit'"
            )
    action: dict[str, list[float] | list[bool]] = _moments(values_FA)
    bounds_A = {"q01": q01_A, "q99": q99_A, "quantile_01": low_A, "quantile_99": high_A}
    action |= {name: array.tolist() for name, array in bounds_A.items()}
    action["mask"] = [True] * GRIPPER + [False]
    return {"action": action, "num_transitions": int(actions_FA.shape[0]), "num_trajectories": num_trajectories}


def proprio_statistics(proprio_FP: NDArray[np.float32]) -> dict[str, list[float] | list[bool]]:
    """Statistics of proprioception; all dimensions are normalised by their 1 % and 99 % quantiles."""
    values_FP = proprio_FP.astype(np.float64)
    quantiles = {"q01": np.quantile(values_FP, 0.01, axis=0), "q99": np.quantile(values_FP, 0.99, axis=0)}
    return {**_moments(values_FP), **{name: array.tolist() for name, array in quantiles.items()}}


def _moments(values: NDArray[np.float64]) -> dict[str, list[float] | list[bool]]:
    return {name: getattr(values, name)(axis=0).tolist() for name in ("mean", "std", "min", "max")}


def normalised_proprio(
    proprio_FP: NDArray[np.float32], statistics: Mapping[str, Sequence[float]]
) -> NDArray[np.float32]:
    """Scaled so that [q01, q99] becomes [-1, 1], and clipped to that (OpenVLA-OFT)."""
    low_P, high_P = np.array(statistics["q01"]), np.array(statistics["q99"])
    scaled_FP = 2 * (proprio_FP - low_P) / (high_P - low_P + RANGE_EPS) - 1
    mask_P = np.array(statistics.get("mask", np.ones(len(low_P), dtype=bool)))
    return np.where(mask_P, np.clip(scaled_FP, -1, 1), proprio_FP).astype(np.float32)


def _symmetric_bound(
    low: NDArray[np.float64], high: NDArray[np.float64], largest: NDArray[np.float64]
) -> NDArray[np.float64]:
    bound = np.maximum(np.abs(low), np.abs(high))
    # Rare motion (less than 1 % of frames either way) would be clipped to MIN_BOUND: take its full range instead.
    return np.where(bound < MIN_BOUND, np.maximum(largest, MIN_BOUND), bound)
