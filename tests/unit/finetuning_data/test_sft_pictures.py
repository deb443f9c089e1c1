"""The OFT repository's image path in training: what is stored, cropped, coloured, validated, recorded and refused."""

import colorsys
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla_oft.data import dataset
from openvla_oft.data.images import PICTURES
from openvla_oft.data.oft_augment import SIDE, OftAugmentConfig, OftDraw, crop, crop_center, saturate, turn_hue
from tests.openvla_reference import REFERENCE, needs_reference
from tests.unit.finetuning import sft_demos
from tests.unit.finetuning.sft_demos import LANGUAGES, write_file
from tests.unit.finetuning.sft_runs import assert_same_weights, logged, packing, run
from transformers_openvla_oft import OpenVLAForActionPrediction, PrismaticProcessor
from transformers_openvla_oft.model.action_tokens import ActionTokenMap
from transformers_openvla_oft.processing.images import resize_bicubic
from transformers_openvla_oft.processing.official_images import resize_lanczos

RLDS = Path(__file__).resolve().parents[2] / "data" / "rlds"
CROPS = ["--pictures", "oft_random_crop"]
STEPS = ["--steps", "3", "--save-dtype", "float32"]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Demonstrations with images of more pixels than the policy reads: crops of the scenes of the RLDS sample."""
    folder = tmp_path_factory.mktemp("large")
    with np.load(RLDS / "expected.npz") as arrays:
        scenes = torch.from_numpy(np.concatenate([arrays[f"{length}/images"][:, 0] for length in (6, 7, 8)]))
    for index, language in enumerate(LANGUAGES):
        path = folder / "libero_spatial" / f"task_{index}_demo.hdf5"
        write_file(path, language=language, num_demos=3, num_steps=10, seed=index, size=48)
        with h5py.File(path, "r+") as file:
            for number, demo in enumerate(file["data"].values()):
                frames = np.arange(10) + 3 * index + number
                demo["obs/agentview_rgb"][...] = resize_bicubic(scenes[frames % len(scenes)], size=48)
    return folder


@pytest.fixture(scope="module")
def looking(large, tmp_path_factory):
    """A policy to which images matter."""
    folder = tmp_path_factory.mktemp("looking") / "policy"
    assert run(large, folder, *STEPS) == 0
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if "projector" in name and name.endswith("weight"):
            tensors[name] *= 10
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load(source, pictures, **options):
    return sft_demos.load(source, **{"image_size": 32, "pictures": pictures, **options}).images_FNHWC


def levels_apart(found, expected):
    return np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int))


def config_of(folder):
    return json.loads((folder / "training.json").read_text())["config"]


@needs_reference
def test_hdf5_pictures_are_those_of_tensorflow(tmp_path):
    raw = np.load(REFERENCE / "oft_fused_inputs.npz")["raw_full_image"]
    expected = np.load(REFERENCE / "image_preproc_tf_expected.npz")
    path = write_file(tmp_path / "a_demo.hdf5", language="go", num_demos=1, num_steps=len(raw), size=256)
    with h5py.File(path, "r+") as file:
        file["data/demo_0/obs/agentview_rgb"][...] = raw[:, ::-1, ::-1]
    stored = load(tmp_path, "oft", image_size=224)
    apart = levels_apart(stored[:, 0], expected["prepare_images_no_crop"])
    assert apart.max() <= 1
    assert apart.mean() < 2e-4, "a tie of rounding now and then"
    assert np.array_equal(load(tmp_path, "oft_random_crop", image_size=224), stored), "crops are taken later"
    seen = crop_center(torch.from_numpy(stored).float() / 255)[:, 0] * 255
    apart = levels_apart(seen.round(), expected["prepare_images_center_crop"])
    assert apart.max() <= 1
    assert apart.mean() < 2e-4
    assert levels_apart(load(tmp_path, "rl", image_size=224), stored).mean() > 1


def test_rlds_pictures_are_decoded_nearly_as_tensorflow_does():
    with np.load(RLDS / "expected.npz") as arrays:
        decoded = {len(images): images for name, images in arrays.items() if name.endswith("/images")}
    demos = sft_demos.load(
        RLDS,
        cameras=("agentview", "eye_in_hand"),
        image_size=24,
        pictures="oft",
    )
    images = np.concatenate([decoded[length] for length in demos.demo_lengths_D.tolist()])
    wanted = resize_lanczos(torch.from_numpy(images).flatten(0, 1), size=24).numpy().reshape(demos.images_FNHWC.shape)
    apart = levels_apart(demos.images_FNHWC, wanted)
    assert apart.mean() < 0.7, "1.3 without a second pass through JPEG"
    assert apart.max() <= 6


def pixels_of(*shape):
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(0))


def test_a_crop_lies_where_its_corner_says():
    picture = pixels_of(1, 1, 9, 9)
    positions = SIDE * torch.arange(9) + torch.tensor([0.0, 8 * (1 - SIDE)])[:, None]  # from corners (0, 1 - SIDE)
    for corner, rows, columns in ((0, 0, 0), (1, 1, 1), (None, 0, 1)):
        where = [0.0, 1 - SIDE] if corner is None else [corner * (1 - SIDE)] * 2
        found = crop(picture, torch.tensor(where).view(1, 1, 2))[0, 0]
        for y in range(9):
            for x in range(9):
                row, column = positions[rows, y].item(), positions[columns, x].item()
                top, left = min(int(row), 7), min(int(column), 7)
                part = picture[0, 0, top : top + 2, left : left + 2]
                down, right = row - top, column - left
                upper, lower = ((1 - right) * part[line, 0] + right * part[line, 1] for line in (0, 1))
                torch.testing.assert_close(found[y, x], (1 - down) * upper + down * lower, atol=1e-5, rtol=0)


def test_crops_are_float32_under_autocast():
    picture = pixels_of(1, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = crop_center(picture)
    assert torch.equal(seen, crop_center(picture))


def test_saturation_and_hue_are_those_of_hsv():
    colours = torch.cat([pixels_of(1, 1, 8, 8).view(-1, 3), torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5], [1, 0, 0]])])
    number = torch.full((len(colours), 1), 1.0)
    for factor, turn in ((0.8, 0.05), (1.2, -0.05), (3.0, 0.4)):
        fuller, turned = saturate(colours, factor * number), turn_hue(colours, turn * number)
        for before, scaled, moved in zip(colours.tolist(), fuller.tolist(), turned.tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*before)
            assert scaled == pytest.approx(colorsys.hsv_to_rgb(hue, min(factor * saturation, 1), value), abs=1e-5)
            assert moved == pytest.approx(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), abs=1e-5)


def test_the_order_of_the_colours_by_hand():
    """Brightness is clipped before contrast stretches each colour about its own mean, saturation before hue."""
    images = (
        torch.tensor([[230, 100, 60], [130, 100, 20]], dtype=torch.uint8).repeat_interleave(8, 0).view(1, 1, 4, 4, 3)
    )
    numbers = OftDraw(
        shift_BN2=None,
        corner_BN2=torch.zeros(1, 1, 2),
        brightness_BN=torch.tensor([[0.2]]),
        contrast_BN=torch.tensor([[0.5]]),
        saturation_BN=torch.tensor([[1.2]]),
        hue_BN=torch.tensor([[0.05]]),
    )
    found = numbers.apply(images)
    bright = (crop(images.float() / 255, numbers.corner_BN2)[0, 0].double() + 0.2).clamp(0, 1)
    assert bright.max() == 1, "this test needs a colour that is clipped"
    stretched = bright.mean(dim=(0, 1)) + 0.5 * (bright - bright.mean(dim=(0, 1)))
    for row in range(4):
        hue, saturation, value = colorsys.rgb_to_hsv(*stretched[row, 0].tolist())
        expected = colorsys.hsv_to_rgb((hue + 0.05) % 1, min(1.2 * saturation, 1), value)
        assert (255 * found[0, 0, row, 0]).tolist() == pytest.approx([int(255.5 * x) for x in expected], abs=1e-3)


def test_draws_stay_in_their_ranges_and_parts_are_rows():
    generator = torch.Generator().manual_seed(0)
    numbers = OftAugmentConfig().draw(num_samples=500, num_cameras=2, image_size=8, generator=generator)
    for name, centre, width in (("brightness", 0, 0.2), ("contrast", 1, 0.2), ("saturation", 1, 0.2), ("hue", 0, 0.05)):
        values = getattr(numbers, f"{name}_BN")
        assert values.shape == (500, 2)
        assert 0.98 * width < (values - centre).abs().max() <= width * (1 + 1e-6)
    assert 0 <= numbers.corner_BN2.min() < 0.001
    assert 0.05 < numbers.corner_BN2.max() < 1 - SIDE
    assert (numbers.corner_BN2[..., 0] - numbers.corner_BN2[..., 1]).abs().max() > 0.04
    images = torch.randint(0, 256, (500, 2, 8, 8, 3), dtype=torch.uint8, generator=generator)
    pixels = numbers.apply(images)
    assert torch.equal(numbers.part(slice(3, 7)).apply(images[3:7]), pixels[3:7])
    assert 0 <= pixels.min() < pixels.max() <= 1
    plain = OftAugmentConfig.crops_only().draw(num_samples=500, num_cameras=2, image_size=8, generator=generator)
    middle = OftDraw(**{**vars(plain), "corner_BN2": torch.full((500, 2, 2), (1 - SIDE) / 2)})
    torch.testing.assert_close(middle.apply(images), crop_center(images.float() / 255), atol=1 / 254, rtol=0)


@pytest.mark.parametrize("pictures", PICTURES)
def test_validation_sees_what_the_policy_acts_on(large, looking, tmp_path, pictures):
    """The loss that is written down is that of the stored policy with the processor's path of that name."""
    output = tmp_path / "policy"
    assert run(large, output, "--init", str(looking), *STEPS, "--lr", "1e-5", "--pictures", pictures) == 0
    config = config_of(output)
    assert (config["pictures"], config["picture_path"]) == (pictures, PICTURES[pictures])
    model = OpenVLAForActionPrediction.from_pretrained(output).eval()
    token_map = ActionTokenMap.from_config(model.config, "libero_spatial")
    raw = sft_demos.load(large, image_size=48)
    chunks, _ = dataset.chunk_actions(raw.actions_FA, raw.demo_lengths_D, num_steps=8)
    wanted_FT = token_map.encode_env_actions(torch.from_numpy(chunks))
    held_out = dataset.split_demonstrations(raw, validation_fraction=0.02, seed=0).validation_frames
    tasks = [raw.languages[task] for task in raw.frame_tasks()[held_out]]
    entropies = {}
    for path in PICTURES.values():
        processor = PrismaticProcessor.from_pretrained(output, picture_path=path)
        batch = processor(torch.from_numpy(raw.images_FNHWC[held_out]), tasks)
        with torch.no_grad():
            logits_BTV = model(**vars(batch)).logits_BTV.float()
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), wanted_FT[held_out].flatten().long())
        entropies[path] = loss.item()
    found = logged(output, "validation")[-1]["cross_entropy"]
    assert found == pytest.approx(entropies[PICTURES[pictures]], rel=1e-6)
    others = [value for path, value in entropies.items() if path != PICTURES[pictures]]
    assert all(abs(found - value) > 1e-5 for value in others), "the paths differ here"


def test_packed_pictures_serve_the_values_that_they_fit(large, tmp_path, capsys):
    for pictures, stored in (("rl", "rl"), ("oft_random_crop", "oft")):
        assert packing(large, tmp_path / pictures, "--pictures", pictures) == 0
        assert json.loads((tmp_path / pictures / "pack.json").read_text())["pictures"] == stored
    for pictures in ("oft", "oft_random_crop"):
        assert np.array_equal(load(tmp_path / "oft_random_crop", pictures), load(large, pictures))
    assert run(large, tmp_path / "a", *STEPS, *CROPS) == 0
    assert run(tmp_path / "oft_random_crop", tmp_path / "b", *STEPS, *CROPS, "--frames", "file") == 0
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    capsys.readouterr()
    assert run(tmp_path / "rl", tmp_path / "c", *STEPS, *CROPS) == 2
    assert "packed with --pictures rl, but oft is needed here; pack again" in capsys.readouterr().err
    assert run(tmp_path / "oft_random_crop", tmp_path / "c", *STEPS) == 2
    assert "packed with --pictures oft, but rl is needed here; pack again" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_pack_from_before_the_option_has_the_pictures_of_reinforcement_learning(large, tmp_path):
    assert packing(large, tmp_path / "packed") == 0
    file = tmp_path / "packed" / "pack.json"
    description = json.loads(file.read_text())
    del description["pictures"]
    file.write_text(json.dumps(description))
    assert np.array_equal(load(tmp_path / "packed", "rl"), load(large, "rl"))
    with pytest.raises(ValueError, match="packed with --pictures rl"):
        load(tmp_path / "packed", "oft")


def test_going_on_with_other_pictures_is_told(large, tmp_path, caplog):
    assert run(large, tmp_path / "first", *STEPS, *CROPS) == 0
    more = ["--init", str(tmp_path / "first"), *STEPS]
    assert run(large, tmp_path / "same", *more, *CROPS) == 0
    assert "--pictures" not in caplog.text
    assert run(large, tmp_path / "other", *more) == 0
    assert f"{tmp_path / 'first'} was trained with --pictures oft_random_crop, and goes on with rl" in caplog.text


def test_colours_can_be_left_alone_and_crops_stay(large, tmp_path):
    for name, extra in (("still", [*CROPS, "--no-augment"]), ("coloured", CROPS), ("whole", ["--pictures", "oft"])):
        assert run(large, tmp_path / name, *STEPS, *extra) == 0
    assert set(config_of(tmp_path / "still")["augment"].values()) == {0}
    still, coloured, whole = (logged(tmp_path / name, "train_loss") for name in ("still", "coloured", "whole"))
    assert still != coloured != whole != still
