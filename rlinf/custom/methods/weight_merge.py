"""Weight merge: one adapter per task, joined in the weights."""

from rlinf.custom.methods.base import ContinualMethod


class WeightMerge(ContinualMethod):
    """Add earlier tasks' adapters to the base model, scaled, and learn a fresh one (task arithmetic, arXiv:2212.04089).

    The work is done where models are loaded (``transformers_openvla_oft.adapters``) and where sequences are planned:
    nothing is left to do during training.
    """
