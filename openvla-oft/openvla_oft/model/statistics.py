"""Which statistics a training normalises actions with, and the file ``dataset_statistics.json`` that keeps them."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvla_oft.data.dataset import DemonstrationSet
from openvla_oft.data.statistics import Statistics, action_statistics, normalised_proprio, proprio_statistics
from openvla_oft.options import FinetuneOptions
from transformers_openvla_oft.model.configuration import (
    DATASET_STATISTICS_FILE,
    NO_NOOPS_SUFFIX,
    with_dataset_statistics,
)
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction

logger = logging.getLogger(__name__)


def choose_statistics(
    options: FinetuneOptions, model: OpenVLAForActionPrediction, demos: DemonstrationSet
) -> dict[str, Statistics]:
    """By key, the same for every suite: the checkpoint's own where it has them, so that tokens keep their meaning.

    Those of an adapter that is continued count as the checkpoint's. Else the data's.

    Raises:
        ValueError: --unnorm-key names statistics that the checkpoint does not have, or it has others for each suite.
    """
    if options.targets.unnorm_key is not None:
        return {options.targets.unnorm_key: model.config.dataset_norm_stats(options.targets.unnorm_key)}
    # As OpenVLA's checkpoints name them, whose data drops idle steps. Ours keeps them (a closing gripper needs its
    # waiting time), and the name, since every reader of these checkpoints looks for it.
    keys = [suite + NO_NOOPS_SUFFIX for suite in options.data.suite.split(",")]
    all_stored = model.config.norm_stats or {}
    stored = [all_stored[key] for key in keys if key in all_stored]
    if stored:
        if any(statistics != stored[0] for statistics in stored):
            raise ValueError(
                f"the checkpoint normalises the actions of {options.data.suite} differently; train one suite at a "
                f"time, or choose one of its statistics with --unnorm-key"
            )
        if "action-bounds" in options.given:
            raise ValueError(
                f"--action-bounds would have no effect: the checkpoint has statistics of {options.data.suite}, which "
                f"are kept so that its tokens keep their meaning; leave it out"
            )
        known = stored[0]
        logger.info("keeping the checkpoint's action statistics for %s", options.data.suite)
        if demos.proprio_FP is not None and "proprio" not in known:
            known = {**known, "proprio": proprio_statistics(demos.proprio_FP)}
        return dict.fromkeys(keys, known)
    computed = action_statistics(
        demos.actions_FA, num_trajectories=len(demos.demo_lengths_D), bounds=options.targets.action_bounds
    )
    if demos.proprio_FP is not None:
        computed["proprio"] = proprio_statistics(demos.proprio_FP)
    return dict.fromkeys(keys, computed)


def normalised_proprio_of(demos: DemonstrationSet, statistics: Statistics, *, key: str) -> NDArray[np.float32] | None:
    """Proprioception of every frame as the policy takes it, where it was read."""
    if demos.proprio_FP is None:
        return None
    known = statistics.get("proprio")
    if not isinstance(known, dict):
        raise ValueError(f"--proprio: the statistics {key!r} have no 'proprio'; choose another --unnorm-key")
    return normalised_proprio(demos.proprio_FP, known)


def save_statistics(folder: Path, statistics: Mapping[str, Statistics]) -> None:
    """Write ``dataset_statistics.json``."""
    (folder / DATASET_STATISTICS_FILE).write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8")


def take_adapter_statistics(model: OpenVLAForActionPrediction, adapter: Path) -> None:
    """Put the statistics of an adapter over those of its base: its tokens mean what these say."""
    base = model.config.norm_stats or {}
    own = with_dataset_statistics({}, adapter).get("norm_stats", {})
    if not own and not base:
        logger.warning(
            "neither %s nor its base has %s: action tokens will mean what the new data's statistics say",
            adapter,
            DATASET_STATISTICS_FILE,
        )
    differing = sorted(key for key in own if key in base and own[key].get("action") != base[key].get("action"))
    if differing:
        logger.warning("%s has other statistics of %s than its base; the adapter's are used", adapter, differing)
    model.config.norm_stats = {**base, **own}
