"""What a GPU decodes, augments and mixes is what a CPU does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist.config.data import AugmentConfig, MixConfig
from hemodist.dataset.dataset import DataSet
from hemodist.loading.dali_pipeline import Batch, DaliBatches, Request
from hemodist.loading.decode_settings import Decoder, DecodeSettings
from hemodist.loading.mixing import mix_images
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.loading.training_loader import TrainingLoader
from hemodist.plan.augmentation import draw_augmentation
from hemodist.plan.mix import draw_mix
from hemodist.plan.prepare import prepare
from tests.support.dataset import make_dataset
from tests.support.gpu_runs import assert_same_pictures, grey_levels, run_of

pytestmark = pytest.mark.gpu

STRONG = AugmentConfig(0.5, 0.5, 0.5, 0.5, 20.0, 0.1, 0.2)
ROWS = np.arange(40)


def load(
    dataset: DataSet,
    tmp_path: Path,
    device: torch.device | str,
    decoder: Decoder,
    *,
    image_size: int = 64,
    augment: AugmentConfig | None = None,
) -> Batch:
    """One batch of the data set's first samples, augmented where `augment` says so."""
    request = Request(ROWS)
    if augment is not None:
        drawn = draw_augmentation(augment, 1, np.zeros_like(ROWS), ROWS)
        request = Request(ROWS, drawn.affine, drawn.brightness, drawn.contrast)
    reader = Reader(dataset, ShardCache(dataset, str(tmp_path)))
    settings = DecodeSettings(image_size, device, decoder=decoder)
    (batch,) = DaliBatches(reader, lambda number: request, settings, start=0, stop=1, max_batch=len(ROWS))
    return batch


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("image_size", [64, 48])
@pytest.mark.parametrize("augment", [None, STRONG, AugmentConfig(min_crop_area=0.5, flip_horizontal=0.5)])
def test_decoding_on_the_gpu_gives_the_cpus_pixels_within_jpegs_tolerance(
    device: torch.device, tmp_path: Path, windows: int, image_size: int, augment: AugmentConfig | None
) -> None:
    data = make_dataset(tmp_path / "data", samples=40, size=64, encoding="JPEG", windows=windows)
    dataset = DataSet.open(str(data))
    options = {"image_size": image_size, "augment": augment}
    reference = load(dataset, tmp_path, "cpu", "cpu", **options)
    decoder: Decoder = "mixed" if device.type == "cuda" else "cpu"
    batch = load(dataset, tmp_path, device, decoder, **options)
    assert batch.images.device.type == batch.targets.device.type == device.type
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert_same_pictures(batch.images, reference.images)


def test_pictures_are_told_apart_by_that_tolerance(device: torch.device, folder: Path, tmp_path: Path) -> None:
    images = load(DataSet.open(str(folder / "data")), tmp_path, device, "auto").images
    assert grey_levels(images[1:], images[:-1]).mean() > 10


def test_lossless_images_are_the_same_to_rounding(device: torch.device, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", samples=40, size=64, encoding="PNG")
    dataset = DataSet.open(str(data))
    reference = load(dataset, tmp_path, "cpu", "cpu")
    assert grey_levels(load(dataset, tmp_path, device, "auto").images, reference.images).max() < 1e-3


def test_decoding_on_the_cpu_for_a_gpu_gives_the_same_pictures(
    device: torch.device, folder: Path, tmp_path: Path
) -> None:
    dataset = DataSet.open(str(folder / "data"))
    reference = load(dataset, tmp_path, "cpu", "cpu", augment=STRONG)
    assert_same_pictures(load(dataset, tmp_path, device, "cpu", augment=STRONG).images, reference.images)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_mixing_on_the_device_is_mixing_on_the_cpu(device: torch.device, kind: str) -> None:
    images = torch.randn(32, 24, 24, 3, generator=torch.Generator().manual_seed(0))
    mix = draw_mix(MixConfig(kind, probability=0.8), 3, 10, 8, mix_group=4, size=24)  # type: ignore[arg-type]
    assert mix.shift.any()
    mixed = images.to(device)
    mix_images(mixed, mix)
    mix_images(images, mix)
    if kind == "cutmix":
        assert torch.equal(mixed.cpu(), images)  # pixels are moved, not computed
    assert torch.allclose(mixed.cpu(), images, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_training_loader_delivers_the_cpus_keys_targets_and_pictures(
    device: torch.device, folder: Path, dtype: torch.dtype
) -> None:
    options = {"batch_size": 32, "seed": 5, "epochs": 1, "augment": STRONG, "mix": MixConfig("cutmix", probability=0.5)}
    data = str(folder / "data")
    reference = TrainingLoader.open(data, **options)  # type: ignore[arg-type]
    loader = TrainingLoader.open(data, device=device, dtype=dtype, **options)  # type: ignore[arg-type]
    batches = 0
    for theirs, ours in zip(reference, loader, strict=True):
        assert (ours.keys, ours.epoch, ours.position, ours.number) == (
            *(theirs.keys, theirs.epoch, theirs.position, theirs.number),
        )
        assert ours.images.dtype == dtype
        assert ours.images.device.type == device.type
        assert torch.allclose(ours.targets.cpu(), theirs.targets, atol=1e-6)
        # A number of bfloat16 has 8 bits, so that 2.6 standard deviations are known to half a hundredth: a grey level.
        coarse = 2.0 if dtype == torch.bfloat16 else 0.1
        difference = grey_levels(ours.images, theirs.images)
        assert difference.max() <= 6 + coarse
        assert difference.mean() <= 0.75 + coarse / 4
        batches += 1
    assert batches == loader.steps > 1


def test_each_sample_is_read_once_an_epoch_and_ranks_join_to_the_global_batch(
    device: torch.device, folder: Path
) -> None:
    run = run_of(folder)
    prepared = prepare(run)
    reader = Reader(prepared.dataset, ShardCache(prepared.dataset, str(folder / "copies")))

    def batches(rank: int, world: int, start: int = 0) -> list[Batch]:
        return list(TrainingLoader(prepared, run, reader, rank=rank, world=world, start=start, device=device))

    whole = batches(0, 1)
    read = np.concatenate([batch.rows for batch in whole])[: run.optim.epochs * len(prepared.split.train)]
    for epoch in np.split(read, run.optim.epochs):
        assert np.array_equal(np.sort(epoch), prepared.split.train)
    shares = [batches(rank, 3, start=2) for rank in range(3)]  # stopped after two steps, gone on with by three
    for number, batch in enumerate(whole[2:]):
        parts = [share[number] for share in shares]
        assert np.array_equal(np.concatenate([part.rows for part in parts]), batch.rows)
        assert torch.allclose(torch.cat([part.targets for part in parts]), batch.targets)
        assert grey_levels(torch.cat([part.images for part in parts]), batch.images).max() <= 1.01


def test_a_masked_sample_counts_nothing_on_the_device(device: torch.device, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", samples=40, size=64, encoding="JPEG")
    dataset = DataSet.open(str(data))
    path = data / "shards/000000.tar"
    content = bytearray(path.read_bytes())
    content[int(dataset.column("offset")[2]) + 100] ^= 255
    path.write_bytes(content)
    reader = Reader(dataset, ShardCache(dataset, str(tmp_path)), "mask")
    loader = DaliBatches(
        reader, lambda number: Request(ROWS[:8]), DecodeSettings(64, device), start=0, stop=1, max_batch=8
    )
    (batch,) = loader
    expected = [0.0 if row == 2 else 1.0 for row in range(8)]
    assert batch.weights.cpu().tolist() == expected
    assert replace(batch).weights.device.type == device.type
