from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from scaling_api.spec import DatasetSpec
from scaling_training.data import Dataset, open_dataset
from scaling_training.data.analysis import analyse
from scaling_training.data.arrays import ImageArrays
from scaling_training.data.dataset import divided
from scaling_training.data.hashes import difference_hashes
from scaling_training.data.neighbours import suspects
from scaling_training.data.reading import spread
from tests.unit.scaling_training.data.folders import fill, folder_spec, picture

DIGITS = DatasetSpec(name="digits")
COUNTS = {"iris": 20, "rose": 20}


def relabelled(share: float) -> tuple[Dataset, set[int]]:
    """Digits with a share of the training labels moved on by a few classes, and which ones."""
    data = open_dataset(DIGITS)
    assert isinstance(data.train, ImageArrays)
    generator = np.random.default_rng(0)
    wrong = generator.choice(len(data.train), int(share * len(data.train)), replace=False)
    labels = data.train.labels.copy()
    labels[wrong] = (labels[wrong] + generator.integers(1, 10, len(wrong))) % 10
    train = ImageArrays(data.train.images, labels, 16)
    parts = {"train": train, "validation": data.validation, "test": data.validation}
    spec = DatasetSpec(name="digits")
    return divided(spec, name="digits", class_names=data.class_names, parts={**parts}), set(wrong.tolist())


def test_clean_data_raises_no_warning() -> None:
    for name in ("digits", "mnist-5k"):
        analysis = analyse(open_dataset(DatasetSpec.model_validate({"name": name})))
        assert analysis.warnings == ()
        assert analysis.imbalance < 1.2
        assert [sum((item.train, item.validation)) > 100 for item in analysis.classes] == [True] * 10


def test_pixels_are_described_as_numpy_would() -> None:
    data = open_dataset(DIGITS)
    assert isinstance(data.train, ImageArrays)
    pixels = analyse(data, most=10_000).pixels
    assert pixels is not None
    scaled = data.train.images / 16
    assert pixels.mean[0] == pytest.approx(scaled.mean(), abs=1e-5)
    assert pixels.std[0] == pytest.approx(scaled.std(), abs=1e-5)
    assert pixels.median[0] == pytest.approx(np.median(scaled), abs=1e-5)
    assert pixels.quartiles[0] == pytest.approx(np.quantile(scaled, (0.25, 0.75)), abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1])
def test_wrong_labels_are_found_and_their_share_is_estimated(share: float) -> None:
    data, wrong = relabelled(share)
    noise = analyse(data, most=10_000).label_noise
    assert noise is not None
    assert noise.estimate == pytest.approx(share, abs=0.02)
    named = {int(name.removeprefix("sample ")) for name, _, _ in noise.suspects}
    if share:
        assert len(named & wrong) >= 0.8 * len(named)


def test_there_is_no_estimate_where_pixels_do_not_tell_the_classes() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (200, 1, 8, 8), dtype=np.uint8)
    assert suspects(images, generator.integers(0, 4, 200), classes=4) is None


def leaky(root: Path) -> None:
    """Training, validation and test folders; one validation picture and two test pictures are training's."""
    for seed, part in enumerate(("train", "validation", "test")):
        fill(root / part, COUNTS, seed=seed, height=64, width=64)
    shutil.copy(root / "train/iris/003.png", root / "validation/iris/copy.png")
    shutil.copy(root / "train/rose/004.png", root / "test/rose/copy.png")
    # Brighter, smaller, and by another compression: no equal bytes, the same picture.
    with Image.open(root / "train/iris/005.png") as image:
        ImageEnhance.Brightness(image.resize((48, 48))).enhance(1.1).save(root / "test/iris/again.jpg", quality=80)


def test_pictures_in_two_splits_are_found_whether_equal_or_nearly(tmp_path: Path) -> None:
    leaky(tmp_path)
    analysis = analyse(open_dataset(folder_spec(tmp_path, imageSize=32)))
    shared = {(found.first, found.second): found for found in analysis.leakage.shared}

    assert set(shared) == {("train", "validation"), ("train", "test")}
    assert shared["train", "validation"].examples == (("train/iris/003.png", "validation/iris/copy.png"),)
    test = shared["train", "test"]
    assert (test.exact, test.near) == (1, 1)
    assert set(test.examples) == {
        ("train/rose/004.png", "test/rose/copy.png"),
        ("train/iris/005.png", "test/iris/again.jpg"),
    }
    assert "1 equal and 1 nearly equal samples are in test and in train" in analysis.warnings[1]


def test_equal_samples_in_memory_are_found() -> None:
    data = open_dataset(DIGITS)
    assert isinstance(data.train, ImageArrays)
    doubled = ImageArrays(data.train.images[:100], data.train.labels[:100], 16)
    leaking = divided(
        DIGITS,
        name="x",
        class_names=data.class_names,
        parts={"train": data.train, "validation": doubled, "test": data.validation},
    )
    (shared,) = analyse(leaking).leakage.shared
    assert (shared.first, shared.second, shared.exact) == ("train", "validation", 100)


def test_digits_look_too_much_alike_for_the_perceptual_hash() -> None:
    data = open_dataset(DatasetSpec(name="mnist-5k"))
    parts = {"train": data.train, "validation": data.train.take(np.arange(0, 3500, 7)), "test": data.validation}
    (shared,) = analyse(divided(data.spec, name="x", class_names=data.class_names, parts=parts)).leakage.shared
    assert (shared.exact, shared.near) == (500, None)


def test_the_perceptual_hash_withstands_size_and_compression() -> None:
    original = picture(3, height=64, width=64)
    smaller = original.resize((32, 32), Image.Resampling.BILINEAR)
    first, second, other = (
        difference_hashes(np.asarray(image).transpose(2, 0, 1)[None])[0]
        for image in (original, smaller, picture(4, height=64, width=64))
    )
    assert np.bitwise_count(first ^ second) <= 3
    assert np.bitwise_count(first ^ other) > 10


def test_unreadable_files_are_named_and_proposed_to_be_skipped_when_few(tmp_path: Path) -> None:
    fill(tmp_path, {"iris": 120, "rose": 120})
    data = open_dataset(folder_spec(tmp_path))
    name = data.train.name_of(7)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:60])
    analysis = analyse(data)

    assert (analysis.unreadable.count, analysis.unreadable.files[0][0]) == (1, name)
    assert f"1 of 192 samples looked at cannot be read, such as {name}" in analysis.warnings[0]
    assert {"unreadable": "skip"} in [proposal.fields for proposal in analysis.proposals]


def test_pictures_of_one_colour_are_named_and_classes_of_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, {"iris": 20, "rose": 20, "tulip": 20})
    for path in [*sorted((tmp_path / "rose").iterdir()), tmp_path / "iris/003.png"]:
        # White shapes on nothing, as drawing programs leave them.
        drawn = np.full((8, 8, 4), 255, dtype=np.uint8)
        drawn[:4, :, 3] = 0
        Image.fromarray(drawn).save(path)
    analysis = analyse(open_dataset(folder_spec(tmp_path, split={"validation": 0.1, "test": 0.1})), most=1000)
    assert analysis.blank is not None
    assert (analysis.blank.checked, analysis.blank.classes) == (48, ("rose",))
    assert 16 <= analysis.blank.count <= 17
    (sentence,) = [found for found in analysis.warnings if "one colour" in found]
    assert sentence.startswith(f"{analysis.blank.count} of 48 images looked at have one colour alone, such as ")
    assert "and so have all of rose: nothing can be learned" in sentence


def test_equal_pictures_of_two_classes_are_found_however_they_came_there(tmp_path: Path) -> None:
    fill(tmp_path / "train", COUNTS)
    os.link(tmp_path / "train/iris/003.png", tmp_path / "train/rose/linked.png")
    (tmp_path / "train/rose/there.png").symlink_to(tmp_path / "train/iris/004.png")
    shutil.copy(tmp_path / "train/iris/005.png", tmp_path / "train/iris/again.png")  # of one class: no contradiction
    fill(tmp_path / "validation", {"iris": 2, "rose": 2}, seed=1)
    fill(tmp_path / "test", {"iris": 2, "rose": 2}, seed=2)
    analysis = analyse(open_dataset(folder_spec(tmp_path)))
    assert analysis.contradictions.count == 2
    assert set(analysis.contradictions.pairs) == {
        ("train/rose/linked.png", "rose", "train/iris/003.png", "iris"),
        ("train/rose/there.png", "rose", "train/iris/004.png", "iris"),
    }
    assert any(
        "train/rose/linked.png (rose), which is train/iris/003.png (iris)" in found for found in analysis.warnings
    )


@pytest.mark.parametrize(
    ("largest", "fields"),
    [
        pytest.param(24, None, id="even enough"),
        pytest.param(50, {"classWeights": "balanced"}, id="uneven"),
        pytest.param(150, {"sampling": "balanced"}, id="very uneven"),
    ],
)
def test_uneven_classes_lead_to_a_proposal(tmp_path: Path, largest: int, fields: dict[str, str] | None) -> None:
    fill(tmp_path, {"iris": largest, "rose": 12})
    analysis = analyse(open_dataset(folder_spec(tmp_path)))
    proposed = [proposal.fields for proposal in analysis.proposals if "normalization" not in proposal.fields]
    assert [item for item in proposed if "imageSize" not in item] == ([fields] if fields else [])
    assert any("look at recall per class" in sentence for sentence in analysis.warnings) == (fields is not None)


@pytest.mark.parametrize(
    ("asked", "proposed"),
    [
        pytest.param(96, 48, id="enlarged"),
        pytest.param(40, None, id="fitting"),
        pytest.param(16, 32, id="much is dropped"),
    ],
)
def test_the_size_of_the_pictures_leads_to_a_resolution(tmp_path: Path, asked: int, proposed: int | None) -> None:
    fill(tmp_path, COUNTS, height=50, width=70)
    analysis = analyse(open_dataset(folder_spec(tmp_path, imageSize=asked)))
    assert analysis.sizes is not None
    assert (analysis.sizes.median_shorter_side, analysis.sizes.width[2]) == (50, 70)
    sizes = [proposal.fields["imageSize"] for proposal in analysis.proposals if "imageSize" in proposal.fields]
    assert sizes == ([proposed] if proposed else [])


def test_what_is_proposed_is_a_valid_section(tmp_path: Path) -> None:
    fill(tmp_path, {"iris": 150, "rose": 12})
    spec = folder_spec(tmp_path, imageSize=96)
    fields: dict[str, Any] = {}
    for proposal in analyse(open_dataset(spec)).to_json()["proposals"]:
        fields |= proposal["fields"]
    assert set(fields) == {"normalization", "sampling", "imageSize"}
    DatasetSpec.model_validate({**spec.to_json_dict(), **fields})


def test_a_selection_does_not_follow_a_pattern_in_the_data() -> None:
    labels = np.arange(10_000) % 10
    counts = np.bincount(labels[spread(10_000, 1000)], minlength=10)
    assert (counts.min() > 70, counts.max() < 130) == (True, True)
    assert spread(10, 20).tolist() == list(range(10))


def test_an_analysis_needs_no_torch() -> None:
    program = (
        "import sys; from scaling_api.spec import DatasetSpec as Spec; from scaling_training.data import open_dataset;"
        "from scaling_training.data.analysis import analyse; analyse(open_dataset(Spec(name='digits'))).to_json();"
        "print([name for name in ('torch', 'scipy', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
