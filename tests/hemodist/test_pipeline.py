from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from hemodist.augment import draw, in_pixels
from hemodist.cache import ShardCache
from hemodist.config import AugmentConfig
from hemodist.manifest import LABELS, DataSet
from hemodist.pipeline import MEAN, STD, CorruptSampleError, Loader, Reader, Request
from hemodist.plan import Plan
from tests.dataset import make_dataset

SIZE = 32
STRONG = AugmentConfig(0.5, 0.5, 0.5, 0.5, 20.0, 0.1, 0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), samples=100, encoding="JPEG")


def reader_of(dataset: DataSet, tmp_path: Path, on_corrupt="stop") -> Reader:
    return Reader(dataset, ShardCache(dataset, str(tmp_path)), on_corrupt)


def still(rows) -> Request:
    n = len(rows)
    return Request(np.asarray(rows), None, np.zeros(n, np.float32), np.ones(n, np.float32))


def load(dataset, reader, requests, **options):
    options = {"image_size": SIZE, "device": "cpu", "start": 0, "stop": len(requests), "max_batch": 64} | options
    return list(Loader(dataset, reader, requests.__getitem__, **options))


def test_images_targets_and_rows_belong_together(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    reader = reader_of(dataset, tmp_path)
    rows = [np.array([3, 99, 50]), np.array([7, 8])]  # batches need not be of one size
    batches = load(dataset, reader, [still(r) for r in rows])
    labels = dataset.labels()
    for batch, expected in zip(batches, rows, strict=True):
        assert np.array_equal(batch.rows, expected)
        assert np.array_equal(batch.targets.numpy(), labels[expected].astype(np.float32))
        assert batch.images.shape == (len(expected), 3, SIZE, SIZE)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.weights.tolist() == [1.0] * len(expected)
        for image, row in zip(batch.images, expected, strict=True):
            decoded = np.asarray(Image.open(io.BytesIO(reader.read(int(row)).tobytes())).convert("RGB"), np.float32)
            normalised = (decoded / 255 - MEAN) / STD
            # Two decoders may differ by a grey level.
            assert np.abs(image.permute(1, 2, 0).numpy() - normalised).max() <= 1.5 / 255 / min(STD)


def test_a_step_has_the_same_pixels_for_any_number_of_workers(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    plan = Plan(np.arange(100), dataset.column("shard"), 1, 48, 8, 2)

    def images(rank, world):
        def request_at(step):
            share = plan.at(step, rank, world)
            drawn = draw(STRONG, 1, share.epochs, share.rows)
            return Request(share.rows, in_pixels(drawn.affine, SIZE), drawn.brightness, drawn.contrast)

        loader = Loader(dataset, reader_of(dataset, tmp_path), request_at, start=1, stop=4, max_batch=48,
                        image_size=SIZE, device="cpu")  # fmt: skip
        return [batch.images for batch in loader]

    alone = images(0, 1)
    for world in (2, 3):
        shares = [images(rank, world) for rank in range(world)]
        for step in range(3):
            assert torch.equal(torch.cat([share[step] for share in shares]), alone[step])


@pytest.mark.parametrize(
    ("linear", "expected"),
    [
        ([[1, 0, 0], [0, 1, 0]], lambda a: a),
        ([[-1, 0, 1], [0, 1, 0]], lambda a: a[:, ::-1]),
        ([[1, 0, 0], [0, -1, 1]], lambda a: a[::-1]),
        ([[0, 1, 0], [1, 0, 0]], lambda a: a.transpose(1, 0, 2)),
    ],
)
def test_flips_and_transpositions_are_exact_to_the_pixel(folder, tmp_path, linear, expected):
    dataset = DataSet.open(str(folder))
    one, none = np.ones(1, np.float32), np.zeros(1, np.float32)
    moved = Request(np.array([5]), in_pixels(np.array([linear], np.float32), SIZE), none, one)
    (batch,) = load(dataset, reader_of(dataset, tmp_path), [moved])
    (plain,) = load(dataset, reader_of(dataset, tmp_path), [still([5])])
    image = plain.images[0].permute(1, 2, 0).numpy()
    assert np.allclose(batch.images[0].permute(1, 2, 0).numpy(), expected(image), atol=1e-5)


def test_brightness_and_contrast_are_in_terms_of_the_window(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    affine = in_pixels(np.eye(2, 3, dtype=np.float32)[None], SIZE)
    request = Request(np.array([5]), affine, np.array([0.1], np.float32), np.array([0.8], np.float32))
    (changed,) = load(dataset, reader_of(dataset, tmp_path), [request])
    (plain,) = load(dataset, reader_of(dataset, tmp_path), [still([5])])
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    grey = plain.images[0] * std + mean
    assert torch.allclose(changed.images[0] * std + mean, (grey - 0.5) * 0.8 + 0.5 + 0.1, atol=1e-4)


def test_stored_and_wanted_size_may_differ(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    for size in (16, 48):
        (batch,) = load(dataset, reader_of(dataset, tmp_path), [still([1, 2])], image_size=size)
        assert batch.images.shape == (2, 3, size, size)


def flip_bit(folder: Path, dataset: DataSet, row: int, rng) -> str:
    shard = folder / dataset.manifest.shards[int(dataset.column("shard")[row])].name
    content = bytearray(shard.read_bytes())
    position = int(dataset.column("offset")[row]) + int(rng.integers(dataset.column("size")[row]))
    content[position] ^= 1 << int(rng.integers(8))
    shard.write_bytes(content)
    return shard.name


def test_every_flipped_bit_is_caught_before_decoding_with_shard_and_key_named(tmp_path):
    folder = make_dataset(tmp_path / "data", samples=100, per_shard=20)
    dataset = DataSet.open(str(folder))
    rng = np.random.default_rng(0)
    for row in range(100):
        shard = flip_bit(folder, dataset, row, rng)
        with pytest.raises(CorruptSampleError) as caught:
            reader_of(dataset, tmp_path).read(row)
        assert shard in str(caught.value)
        assert f"s{row:05d}" in str(caught.value)


def test_a_corrupt_sample_stops_the_run_or_is_masked_and_counted(tmp_path):
    folder = make_dataset(tmp_path / "data", samples=20)
    dataset = DataSet.open(str(folder))
    flip_bit(folder, dataset, 4, np.random.default_rng(1))
    with pytest.raises(CorruptSampleError, match="s00004"):
        load(dataset, reader_of(dataset, tmp_path), [still(range(8))])
    reader = reader_of(dataset, tmp_path, "mask")
    first, second = load(dataset, reader, [still(range(8)), still(range(8, 16))])
    assert first.weights.tolist() == [1, 1, 1, 1, 0, 1, 1, 1]
    assert second.weights.tolist() == [1] * 8
    assert reader.corrupt == {4}


def test_an_unknown_label_is_nan_and_never_zero(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    column = dataset.index.column("epidural").to_pylist()
    column[3] = None
    position = dataset.index.schema.get_field_index("epidural")
    index = dataset.index.set_column(position, dataset.index.schema.field(position), pa.array(column, pa.int8()))
    changed = DataSet(dataset.store, dataset.manifest, index)
    (batch,) = load(changed, reader_of(changed, tmp_path), [still([2, 3])])
    assert torch.isnan(batch.targets).nonzero().tolist() == [[1, LABELS.index("epidural")]]


def test_a_batch_outlives_the_next_ones(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    requests = [still(range(i * 10, i * 10 + 10)) for i in range(10)]
    kept = load(dataset, reader_of(dataset, tmp_path), requests)
    for request, batch in zip(requests, kept, strict=True):
        (again,) = load(dataset, reader_of(dataset, tmp_path), [request])
        assert torch.equal(again.images, batch.images)
