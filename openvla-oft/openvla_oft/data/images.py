"""How stored images come to the policy's size.

``--pictures`` says it: as in reinforcement learning (``rl``), or as in the OpenVLA-OFT
repository (``oft``, and ``oft_random_crop``, which crops what the former stores, see ``oft_augment``).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from transformers_openvla_oft.processing.images import resize_bicubic
from transformers_openvla_oft.processing.official_images import official_pictures

PICTURES = {"rl": "rl", "oft": "oft", "oft_random_crop": "oft_center_crop"}
"""What --pictures may be, and the ``picture_path`` of ``PrismaticProcessor`` that a policy trained so acts with."""


def stored_form(pictures: str) -> str:
    """``rl`` or ``oft``: what is stored for a value of --pictures; random crops are taken from whole images."""
    return "rl" if pictures == "rl" else "oft"


def is_cropped(pictures: str) -> bool:
    """Whether the policy acts on the middle of each image, and is trained on random crops of that size."""
    return PICTURES[pictures] == "oft_center_crop"


def prepare_images(images_THWC: NDArray[np.uint8], *, image_size: int, pictures: str) -> NDArray[np.uint8]:
    """Upright images to (T, image_size, image_size, C) as they are stored for a value of --pictures.

    For the OFT repository's path every image goes through JPEG, those of RLDS shards once more: the second pass
    keeps nearly all coefficients, and decodes as TensorFlow does, whose decoder differs from Pillow's. On a sample that
    TensorFlow decoded this leaves a mean difference of 0.5 grey levels instead of 1.3.
    """
    whole_THWC = torch.from_numpy(images_THWC)
    if stored_form(pictures) == "rl":
        # At the policy's size another resize is an identity: what is stored is what the policy sees in the environment.
        return resize_bicubic(whole_THWC, size=image_size).numpy()
    return official_pictures(whole_THWC, size=image_size, center_crop=False).numpy()
