"""The OFT repository's picture path against TensorFlow's outputs, in grey levels."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from rlinf.config import ConfigError
from rlinf.config.schema import ModelConfig
from rlinf.data import Observation
from rlinf.models import PolicySource, load_policy
from tests.openvla_reference import REFERENCE, needs_reference
from tests.simple_cnn import write_cnn
from tests.small_policy import LANGUAGE, read_policy
from transformers_openvla_oft import PrismaticProcessor
from transformers_openvla_oft.processing.images import resize_bicubic
from transformers_openvla_oft.processing.official_images import (
    crop_center,
    jpeg_round_trip,
    official_pictures,
    resize_lanczos,
)

ROUNDING = (1, 2e-4)  # largest and mean difference: a tie of rounding now and then
EXACT = (0, 0)


@pytest.fixture(scope="module")
def expected():
    return np.load(REFERENCE / "image_preproc_tf_expected.npz")


@pytest.fixture(scope="module")
def raw():
    return torch.from_numpy(np.load(REFERENCE / "oft_fused_inputs.npz")["raw_full_image"])


def assert_levels(images, wanted, *, within):
    assert images.dtype == torch.uint8
    levels = np.abs(images.numpy().astype(int) - wanted.astype(int))
    assert levels.max() <= within[0]
    assert levels.mean() <= within[1]


@needs_reference
def test_resizing_and_cropping_without_compression(raw, expected):
    resized = expected["resize_lanczos_nojpeg"]
    assert_levels(resize_lanczos(raw, size=224), resized, within=ROUNDING)
    cropped = crop_center(torch.from_numpy(resized), size=224)
    assert_levels(cropped, expected["center_crop_of_resized_nojpeg"], within=ROUNDING)
    assert_levels(crop_center(raw, size=224), expected["center_crop_of_raw256"], within=ROUNDING)
    decoded = torch.from_numpy(expected["jpeg_roundtrip"])
    assert_levels(resize_lanczos(decoded, size=224), expected["resize_lanczos_jpeg"], within=ROUNDING)


@needs_reference
def test_the_whole_path(raw, expected):
    assert_levels(jpeg_round_trip(raw), expected["jpeg_roundtrip"], within=EXACT)
    plain, cropped = (official_pictures(raw, size=224, center_crop=crop) for crop in (False, True))
    assert_levels(plain, expected["prepare_images_no_crop"], within=ROUNDING)
    assert_levels(cropped, expected["prepare_images_center_crop"], within=ROUNDING)
    # What the path would give without its compression is another picture.
    uncompressed = np.abs(resize_lanczos(raw, size=224).numpy().astype(int) - expected["prepare_images_no_crop"])
    assert uncompressed.mean() > 2


@pytest.mark.parametrize("shape", [(256, 256), (100, 37), (1, 1)])
def test_compression_is_that_of_other_programs(shape):
    """Pillow's decoder has another transform, and keeps what TensorFlow's darkens by half a level."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(40, 200, (4, 4, 3)).repeat(64, axis=0).repeat(64, axis=1)[: shape[0], : shape[1]]
    picture = (smooth + rng.integers(-8, 9, smooth.shape)).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=95, subsampling="4:2:0")
    levels = jpeg_round_trip(torch.from_numpy(picture)[None])[0].numpy().astype(int) - np.asarray(
        Image.open(buffer)
    ).astype(int)
    assert levels.shape == picture.shape
    assert np.abs(levels).max() <= 12
    assert -0.9 < levels.mean() <= 0


def test_a_grey_picture_stays():
    grey = torch.full((1, 64, 48, 3), 130, dtype=torch.uint8)
    assert_levels(official_pictures(grey, size=32, center_crop=True), np.full((1, 32, 32, 3), 130), within=(0, 0))


@needs_reference
@pytest.mark.parametrize(
    ("path", "name"), [("oft", "prepare_images_no_crop"), ("oft_center_crop", "prepare_images_center_crop")]
)
def test_the_processor_takes_that_path_where_asked(raw, expected, path, name):
    folder = REFERENCE / "tiny_openvla_oft_fused"
    processor = PrismaticProcessor.from_pretrained(folder, picture_path=path)
    resized = processor.resize(raw[:, None])
    assert_levels(resized[:, 0], expected[name], within=ROUNDING)
    # Once resized, pictures are normalised alike in both paths.
    wanted = PrismaticProcessor.from_pretrained(folder).pixel_values(resized)
    assert torch.equal(processor.pixel_values(raw[:, None]), wanted)
    assert torch.equal(processor.pixel_values(resized, resized=True), wanted)
    with pytest.raises(ValueError, match="rl, oft, oft_center_crop"):
        PrismaticProcessor.from_pretrained(folder, picture_path="lanczos")


@pytest.mark.parametrize("side", [64, 32], ids=["larger", "of the model's size"])
@pytest.mark.parametrize("path", ["rl", "oft", "oft_center_crop"])
def test_the_configuration_chooses_the_path(small_policy, path, side):
    """Rollouts keep pictures that went along it, and updates take those as they are."""
    policy = read_policy(small_policy, picture_path=path)
    images = np.random.default_rng(0).integers(0, 256, (2, 1, side, side, 3), np.uint8)
    inputs = policy.prepare(Observation(images, np.zeros((2, 8), np.float32), (LANGUAGE,) * 2))
    crop = path == "oft_center_crop"
    flat = torch.from_numpy(images).flatten(0, 1)
    wanted = resize_bicubic(flat, size=32) if path == "rl" else official_pictures(flat, size=32, center_crop=crop)
    assert torch.equal(inputs.images_BNHWC.flatten(0, 1), wanted)
    updated = policy.batch(inputs).pixel_values
    assert torch.equal(updated, policy.processor.pixel_values(torch.from_numpy(images)))
    assert torch.equal(updated, policy.processor.pixel_values(inputs.images_BNHWC, resized=True))
    stored = policy.base_identity(LANGUAGE, torch.zeros(1, 56, dtype=torch.long))["image pipeline"]
    assert ("bicubic" in stored, "Lanczos" in stored, "crop" in stored) == (path == "rl", path != "rl", crop)


def test_a_path_that_a_policy_does_not_know_is_refused(tmp_path):
    checkpoint = write_cnn(tmp_path / "cnn")
    config = ModelConfig(model_name="simple_cnn", is_lora=False, picture_path="oft")
    source = PolicySource(checkpoint, unnorm_key="libero_spatial", seed=3)
    with pytest.raises(ConfigError, match=r"actor\.model\.picture_path=oft: simple_cnn knows rl only"):
        load_policy(config, source, base_dtype=torch.float32)
