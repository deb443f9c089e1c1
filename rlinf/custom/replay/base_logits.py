"""Base-model logits of demonstrations, stored beside them: one file per demonstration, for dark experience replay.

``<folder of the demonstrations>/base_logits/<file name>/<demonstration>.safetensors`` holds ``logits_FTV`` (frames F,
tokens T of a chunk, bins V) in float32 and, in its header, what they depend on. A file appears complete or not at all.
"""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from libero_runtime.files import whole_file
from rlinf.config.errors import UserError
from rlinf.custom.replay.dataset import Demonstration, DemonstrationRef
from rlinf.models import ReplayablePolicy

FOLDER = "base_logits"
TENSOR = "logits_FTV"
COMMAND = "bash examples/embodiment/compute_base_logits_embodiment.sh CONFIG_NAME"


def logits_identity(
    ref: DemonstrationRef, demo: Demonstration, bins_FT: Tensor, policy: ReplayablePolicy
) -> dict[str, str]:
    """What the logits depend on that ``policy``'s base model has for a demonstration now, whose actions are
    ``bins_FT``: each as a text to compare."""
    shape = "x".join(map(str, demo.images_TNHWC.shape))
    digest = blake2b(demo.images_TNHWC.tobytes(), digest_size=8).hexdigest()
    return {**policy.base_identity(ref.language, bins_FT), "pictures": f"{shape} {digest}"}


def logits_path(ref: DemonstrationRef) -> Path:
    """Where the logits of a demonstration are."""
    return ref.path.parent / FOLDER / ref.path.name / f"{ref.name}.safetensors"


def is_current(ref: DemonstrationRef, identity: Mapping[str, str]) -> bool:
    """Whether stored logits need not be computed again."""
    path = logits_path(ref)
    return path.is_file() and not _differences(identity, _stored(path))


def write_logits(ref: DemonstrationRef, identity: Mapping[str, str], logits_FTV: Tensor) -> None:
    """Store logits, all of a demonstration or none."""
    with whole_file(logits_path(ref)) as partial:
        save_file({TENSOR: logits_FTV.float().cpu().contiguous()}, partial, metadata=dict(identity))


def read_logits(ref: DemonstrationRef, identity: Mapping[str, str]) -> Tensor:
    """Stored logits (F, T, V), float32.

    Raises:
        UserError: there are none, or they were computed for something else; says what differs.
    """
    path = logits_path(ref)
    require_logits(ref)
    differing = _differences(identity, _stored(path))
    if differing:
        raise UserError(
            f"the base-model logits in {path} do not belong to this run:\n  " + "\n  ".join(differing) + "\n"
            f"Compute them again with {COMMAND}, or use method.replay.cached_logits=false"
        )
    with safe_open(path, framework="pt") as file:
        logits_FTV: Tensor = file.get_tensor(TENSOR)
    if len(logits_FTV) != ref.num_steps:
        raise UserError(f"{path} has logits of {len(logits_FTV)} frames, the demonstration {ref.num_steps}")
    return logits_FTV


def require_logits(ref: DemonstrationRef) -> None:
    """Raise ``UserError`` where no logits of a demonstration are stored."""
    if not logits_path(ref).is_file():
        raise UserError(
            f"method.replay.cached_logits=true, but there are no base-model logits in {logits_path(ref)}: compute them "
            f"with {COMMAND}, or use method.replay.cached_logits=false"
        )


def _differences(identity: Mapping[str, str], stored: Mapping[str, str]) -> list[str]:
    """Where stored texts are others, in words."""
    return [
        f"{name}: they were computed for {stored.get(name, 'an unknown one')}, this run has {text}"
        for name, text in identity.items()
        if stored.get(name) != text
    ]


def _stored(path: Path) -> dict[str, str]:
    """What the header says; empty for a file that cannot be read, which then differs in everything."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        return {}
