"""How fast images come from a folder: ours against torchvision's ImageFolder with a DataLoader.

Both read the same JPEG files with the same number of reading processes, the same random-resized crop with
antialiasing, flip and normalisation, and deliver batches of normalised floats. Ours augments and normalises a batch at
a time after decoding, ImageFolder one image at a time in the reading processes. The two take turns over the same
images, and a pair's order alternates, so that what else the machine does meets both; starting the processes is not
counted, the first batches are left out.

The second figure is what going on in the middle costs: the time from a cursor at sample 1,000,000 to the indices and
draws of its first batch, for an epoch of 1,281,167 samples as ImageNet's, beside that of the first batch of all.

    python -m bench.bench_loader [--pairs 8] [--images 1200] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scaling_api.spec import Augmentation, DatasetSpec
from scaling_training.data import Dataset, open_dataset
from scaling_training.data.augment import ImageAugmentation
from scaling_training.data.order import DataOrder
from scaling_training.data.random import Purpose, SampleWords
from scaling_training.data.requests import Request

BATCH = 32
SIZE = 128
AREA = 0.25
CLASSES = 4
LEFT_OUT = 4  # batches at the start of a turn
IMAGENET = 1_281_167
CURSOR = 1_000_000


def main() -> int:
    """Measure, print, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make(folder, options.images)
        data = _dataset(folder, options.workers)
        theirs = _image_folder(folder)
        pairs = []
        for pair in range(-1, options.pairs):  # the first pair warms up
            rates: dict[str, float] = {}
            for turn in ("ours", "theirs") if pair % 2 else ("theirs", "ours"):
                batches = _ours(data, pair) if turn == "ours" else _theirs(theirs, options.workers)
                rates[turn] = _rate(batches)
            if pair >= 0:
                pairs.append(rates)
                print(
                    f"ours {rates['ours']:7.1f} images/s   ImageFolder {rates['theirs']:7.1f} images/s   "
                    f"ratio {rates['ours'] / rates['theirs']:.3f}"
                )
    ratios = [rates["ours"] / rates["theirs"] for rates in pairs]
    print(
        json.dumps(
            {
                "bench": "loader",
                "workers": options.workers,
                "images": len(data.train),
                "pairs": len(pairs),
                "images_per_second": round(statistics.median(rates["ours"] for rates in pairs), 1),
                "image_folder_images_per_second": round(statistics.median(rates["theirs"] for rates in pairs), 1),
                "ratio": round(statistics.median(ratios), 4),
                "ratio_quartiles": [round(value, 4) for value in statistics.quantiles(ratios, n=4)],
                "resume_ms": _resume(CURSOR),
                "first_batch_ms": _resume(0),
            }
        )
    )
    return 0


def _make(folder: Path, images: int) -> None:
    """JPEG files of the size of ImageNet's, as compressible as photographs: smooth shapes and some noise."""
    generator = np.random.default_rng(0)
    for number in range(images):
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        noise = generator.integers(-12, 13, smooth.shape, dtype=np.int16)
        target = folder / f"class-{number % CLASSES}"
        target.mkdir(exist_ok=True)
        pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(target / f"{number:05d}.jpg", quality=90)


def _dataset(folder: Path, workers: int) -> Dataset:
    return open_dataset(
        DatasetSpec.model_validate(
            {
                "name": "image-folder",
                "uri": str(folder),
                "imageSize": SIZE,
                "normalization": {"source": "imagenet"},
                "augmentation": {"horizontalFlip": 0.5, "crop": {"area": AREA}},
                "loader": {"workers": workers, "prefetch": 2},
            }
        )
    )


def _ours(data: Dataset, epoch: int) -> Iterator[Any]:
    order = data.order(seed=0, batch_size=BATCH)

    def requests() -> Iterator[Request]:
        indices = order.indices(epoch + 1)
        for start in range(0, len(indices), BATCH):
            yield Request(epoch + 1, indices[start : start + BATCH])

    feed = data.feed(data.train, device=torch.device("cpu"), seed=0, training=True)
    return feed.stream(requests())


def _image_folder(folder: Path) -> Any:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from scaling_training.data.normalise import IMAGENET_MEAN, IMAGENET_STD

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(AREA, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return ImageFolder(str(folder), transform=transform)


def _theirs(dataset: Any, workers: int) -> Iterator[Any]:
    # As many images as our training split has.
    count = round(len(dataset) * 0.7)
    sampler = torch.randperm(len(dataset))[:count].tolist()
    loader: Any = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, sampler=sampler, num_workers=workers, prefetch_factor=2 if workers else None
    )
    return iter(loader)


def _rate(batches: Iterator[Any]) -> float:
    """Images per second from the end of the batches left out to the end of the last."""
    images, began = 0, 0.0
    for number, batch in enumerate(batches):
        inputs = batch[0] if isinstance(batch, list) else batch.inputs
        assert inputs.shape[1:] == (3, SIZE, SIZE)
        assert inputs.dtype == torch.float32
        if number >= LEFT_OUT:
            images += len(inputs)
        elif number == LEFT_OUT - 1:
            began = time.perf_counter()
    return images / (time.perf_counter() - began)


def _resume(cursor: int) -> float:
    """Milliseconds, the median of five fresh starts."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        order = DataOrder(seed=0, samples=IMAGENET, batch_size=256)
        spec = Augmentation.model_validate({"horizontalFlip": 0.5, "crop": {"area": 0.08}})
        augmentation = ImageAugmentation(spec, seed=0, samples=IMAGENET, crops_area=False)
        keys = SampleWords(0, Purpose.KEY, samples=IMAGENET, width=1)
        batch = order.batch_at(cursor)
        augmentation.crop_draws(batch.epoch, batch.indices)
        keys.of(batch.epoch, batch.indices)
        times.append(time.perf_counter() - began)
    return round(statistics.median(times) * 1e3, 1)


if __name__ == "__main__":
    sys.exit(main())
