"""Makes transformers' auto classes find this package's classes.

Published checkpoints name remote code in `auto_map`. Classes registered here are taken instead, without asking whether
that code may run.
"""

from __future__ import annotations

import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .configuration import OpenVLAConfig
from .modeling import OpenVLAForActionPrediction
from .processing import PrismaticProcessor

# transformers 5 dropped the second of these names, which the published checkpoints use.
MODEL_CLASSES = ("AutoModelForImageTextToText", "AutoModelForVision2Seq")


def register() -> None:
    """Register configuration, processor and model; once or more often."""
    AutoConfig.register(OpenVLAConfig.model_type, OpenVLAConfig, exist_ok=True)
    AutoProcessor.register(OpenVLAConfig, PrismaticProcessor, exist_ok=True)
    for name in MODEL_CLASSES:
        auto_class: type[AutoModelForImageTextToText] | None = getattr(transformers, name, None)
        if auto_class is not None:
            auto_class.register(OpenVLAConfig, OpenVLAForActionPrediction, exist_ok=True)
