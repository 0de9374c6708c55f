from __future__ import annotations

import errno
import gc
import io
import os
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hemodist.config.data import AugmentConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import INDEX, MANIFEST, DatasetError, Manifest
from hemodist.errors import ConfigError
from hemodist.loading import dali_pipeline, evaluation_batches
from hemodist.loading import sample_reader as module
from hemodist.loading.dali_pipeline import DaliBatches, Request
from hemodist.loading.decode_settings import DecodeSettings
from hemodist.loading.encoded_pictures import PicturesInMemory
from hemodist.loading.pixels import MEAN, STD
from hemodist.loading.sample_reader import CorruptSampleError, Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.plan.augmentation import draw_augmentation
from hemodist.plan.order import Plan
from tests.support.checkpoints import run_of
from tests.support.dataset import make_dataset

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


def load(reader, requests, **settings):
    return list(
        DaliBatches(reader, requests.__getitem__, DecodeSettings(**{"image_size": SIZE} | settings), start=0,
                    stop=len(requests), max_batch=64)
    )  # fmt: skip


def test_images_targets_and_rows_belong_together(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    reader = reader_of(dataset, tmp_path)
    rows = [np.array([3, 99, 50]), np.array([7, 8])]  # batches need not be of one size
    batches = load(reader, [still(r) for r in rows])
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


@pytest.mark.parametrize("size", [SIZE, 20])
def test_a_step_has_the_same_pixels_for_any_number_of_workers_and_threads(folder, tmp_path, size):
    dataset = DataSet.open(str(folder))
    plan = Plan(np.arange(100), dataset.column("shard"), 1, 48, 8, 2)

    def images(rank, world, threads=4):
        def request_at(step):
            share = plan.at(step, rank, world)
            drawn = draw_augmentation(STRONG, 1, share.epochs, share.rows)
            return Request(share.rows, drawn.affine, drawn.brightness, drawn.contrast)

        reader = reader_of(dataset, tmp_path)
        settings = DecodeSettings(image_size=size, threads=threads)
        return [batch.images for batch in DaliBatches(reader, request_at, settings, start=1, stop=4, max_batch=48)]

    alone = images(0, 1)
    for one, other in zip(images(0, 1, threads=1), alone, strict=True):
        assert torch.equal(one, other)
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
    moved = Request(np.array([5]), np.array([linear], np.float32), none, one)
    (batch,) = load(reader_of(dataset, tmp_path), [moved])
    (plain,) = load(reader_of(dataset, tmp_path), [still([5])])
    image = plain.images[0].permute(1, 2, 0).numpy()
    assert np.allclose(batch.images[0].permute(1, 2, 0).numpy(), expected(image), atol=1e-5)


def test_brightness_and_contrast_are_in_terms_of_the_window(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    affine = np.eye(2, 3, dtype=np.float32)[None]
    request = Request(np.array([5]), affine, np.array([0.1], np.float32), np.array([0.8], np.float32))
    (changed,) = load(reader_of(dataset, tmp_path), [request])
    (plain,) = load(reader_of(dataset, tmp_path), [still([5])])
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    grey = plain.images[0] * std + mean
    assert torch.allclose(changed.images[0] * std + mean, (grey - 0.5) * 0.8 + 0.5 + 0.1, atol=1e-4)


def test_stored_and_wanted_size_may_differ(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    for size in (16, 48):
        (batch,) = load(reader_of(dataset, tmp_path), [still([1, 2])], image_size=size)
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
        load(reader_of(dataset, tmp_path), [still(range(8))])
    reader = reader_of(dataset, tmp_path, "mask")
    first, second = load(reader, [still(range(8)), still(range(8, 16))])
    assert first.weights.tolist() == [1, 1, 1, 1, 0, 1, 1, 1]
    assert second.weights.tolist() == [1] * 8
    assert reader.corrupt == {4}


def test_a_shard_that_is_cut_off_while_it_is_read_names_the_sample_or_masks_it(tmp_path):
    folder = make_dataset(tmp_path / "data", samples=20, per_shard=20)
    dataset = DataSet.open(str(folder))
    stopping, masking = reader_of(dataset, tmp_path), reader_of(dataset, tmp_path, "mask")
    for reader in (stopping, masking):
        reader.read(0)
    with (folder / dataset.manifest.shards[0].name).open("r+b") as shard:
        shard.truncate(int(dataset.column("offset")[12]) + 10)
    assert len(stopping.read(11)) == dataset.column("size")[11]
    with pytest.raises(CorruptSampleError, match=r"s00012 .*does not match its checksum"):
        stopping.read(12)
    (batch,) = load(masking, [still(range(10, 14))])
    assert batch.weights.tolist() == [1, 1, 0, 0]


def test_a_sample_that_cannot_be_read_for_a_moment_is_read_again_and_then_named(tmp_path, monkeypatch):
    dataset = DataSet.open(str(make_dataset(tmp_path / "data", samples=4)))
    monkeypatch.setattr(module, "_WAITS", (0.0, 0.01))
    failures = [2]
    read = os.pread

    def failing(*arguments):
        if failures[0]:
            failures[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(*arguments)

    monkeypatch.setattr(module, "_POPULATE_READ", 10_000)  # what no kernel knows, so that it is read
    monkeypatch.setattr(os, "pread", failing)
    assert len(reader_of(dataset, tmp_path).read(1)) == dataset.column("size")[1]
    assert not failures[0]
    failures[0] = 99
    with pytest.raises(CorruptSampleError, match=r"s00001 .*cannot be read: .*Stale file handle"):
        reader_of(dataset, tmp_path).read(1)


def test_nobody_reads_while_the_shards_are_closed_for_others_and_all_go_on_after(tmp_path):
    dataset = DataSet.open(str(make_dataset(tmp_path / "data", samples=4)))
    reader = reader_of(dataset, tmp_path)
    reader.read(0)
    with ThreadPoolExecutor(1) as thread:
        with reader.closed():
            reading = thread.submit(reader.read, 1)
            time.sleep(0.1)
            assert not reading.done()
            assert not reader._open
        assert len(reading.result()) == dataset.column("size")[1]


def test_an_older_kernel_reads_the_same_bytes(tmp_path, monkeypatch):
    dataset = DataSet.open(str(make_dataset(tmp_path / "data", samples=4)))
    mapped = [reader_of(dataset, tmp_path).read(row) for row in range(4)]
    monkeypatch.setattr(module, "_POPULATE_READ", 10_000)
    for row, expected in enumerate(mapped):
        assert reader_of(dataset, tmp_path).read(row).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("column", "value"), [("offset", -1), ("offset", 1 << 62), ("size", 0), ("shard", -1), ("shard", 7)]
)
def test_an_index_that_points_outside_its_shards_is_refused(tmp_path, column, value):
    folder = make_dataset(tmp_path / "data", samples=4)
    index = pq.read_table(folder / INDEX)
    values = index.column(column).to_pylist()
    at = index.schema.get_field_index(column)
    values[2] = value
    buffer = io.BytesIO()
    pq.write_table(index.set_column(at, index.schema.field(at), pa.array(values, index.schema.field(at).type)), buffer)
    (folder / INDEX).write_bytes(buffer.getvalue())
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes(), "")
    (folder / MANIFEST).write_bytes(replace(manifest, index_sha256=sha256(buffer.getvalue())).to_bytes())
    with pytest.raises(DatasetError, match="puts 1 samples outside their shards, s00002 the first"):
        DataSet.open(str(folder))


def test_an_unknown_label_is_nan_and_never_zero(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    column = dataset.index.column("epidural").to_pylist()
    column[3] = None
    position = dataset.index.schema.get_field_index("epidural")
    index = dataset.index.set_column(position, dataset.index.schema.field(position), pa.array(column, pa.int8()))
    changed = DataSet(dataset.store, dataset.manifest, index)
    (batch,) = load(reader_of(changed, tmp_path), [still([2, 3])])
    assert torch.isnan(batch.targets).nonzero().tolist() == [[1, LABELS.index("epidural")]]


def test_a_batch_outlives_the_next_ones(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    requests = [still(range(i * 10, i * 10 + 10)) for i in range(10)]
    kept = load(reader_of(dataset, tmp_path), requests)
    for request, batch in zip(requests, kept, strict=True):
        (again,) = load(reader_of(dataset, tmp_path), [request])
        assert torch.equal(again.images, batch.images)


def grey_levels(images: torch.Tensor) -> torch.Tensor:
    return (images.float() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float16, 10), (torch.bfloat16, 7)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_images_have_the_dtype_and_the_layout_that_are_asked_for(folder, tmp_path, dtype, bits, channels_last):
    dataset = DataSet.open(str(folder))
    options = {"dtype": dtype, "channels_last": channels_last}
    (batch,) = load(reader_of(dataset, tmp_path), [still(range(6))], **options)
    (plain,) = load(reader_of(dataset, tmp_path), [still(range(6))])
    assert batch.images.dtype == dtype
    assert batch.images.shape == (6, 3, SIZE, SIZE)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.images.is_contiguous(memory_format=layout)
    assert torch.allclose(batch.images.float(), plain.images, atol=1e-6, rtol=2.0**-bits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.float64}, "cannot be torch.float64"),
        ({"decoder": "mixed"}, "data.decoder mixed decodes on a GPU"),
    ],
)
def test_what_cannot_be_had_is_refused(folder, tmp_path, options, message):
    dataset = DataSet.open(str(folder))
    with pytest.raises(ConfigError, match=message):
        load(reader_of(dataset, tmp_path), [still([1])], **options)


@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
def test_a_grey_data_set_fills_three_channels(tmp_path, encoding):
    folder = make_dataset(tmp_path / "data", samples=12, encoding=encoding, windows=1)
    dataset = DataSet.open(str(folder))
    (batch,) = load(reader_of(dataset, tmp_path), [still(range(12))])
    grey = grey_levels(batch.images)
    assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-3)
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-3)
    stored = Image.open(io.BytesIO(reader_of(dataset, tmp_path).read(3).tobytes()))
    assert stored.mode == "L"
    assert np.abs(grey[3, 0].numpy() - np.asarray(stored, np.float32)).max() <= 1.5


def test_pictures_in_memory_give_the_tensors_of_the_same_pictures_in_shards(folder, tmp_path):
    reader = reader_of(DataSet.open(str(folder)), tmp_path)
    encoded = [reader.read(row).tobytes() for row in range(8)]
    (stored,) = load(reader, [still(range(8))])
    (given,) = load(PicturesInMemory(encoded, stored_size=SIZE, windows=3), [still(range(8))])
    assert torch.equal(given.images, stored.images)
    assert given.weights.tolist() == [1.0] * 8
    assert torch.isnan(given.targets).all()
    assert given.targets.shape == stored.targets.shape
    assert given.keys == ()
    with pytest.raises(DatasetError, match=r"memory has images of 2 windows"):
        load(PicturesInMemory(encoded, stored_size=SIZE, windows=2), [still([1])])


def test_a_data_set_of_two_windows_is_refused(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    manifest = replace(dataset.manifest, config=dataset.manifest.config | {"windows": [{}, {}]})
    with pytest.raises(DatasetError, match="images of 2 windows; shard again with one or three"):
        load(reader_of(replace(dataset, manifest=manifest), tmp_path), [still([1])])


def test_a_flipped_bit_anywhere_in_a_shard_changes_no_pixel_in_silence(tmp_path):
    """In an image: an error that names it. In a header, a JSON member or the padding: no other pixels."""
    folder = make_dataset(tmp_path / "data", samples=24, per_shard=24, encoding="JPEG", json=True)
    dataset = DataSet.open(str(folder))
    (plain,) = load(reader_of(dataset, tmp_path), [still(range(24))])
    shard = folder / "shards/000000.tar"
    content = shard.read_bytes()
    offset, size = dataset.column("offset"), dataset.column("size")
    rng = np.random.default_rng(0)
    caught = 0
    for position in rng.integers(0, len(content), 100):
        spoilt = bytearray(content)
        spoilt[position] ^= 1 << int(rng.integers(8))
        shard.write_bytes(spoilt)
        inside = np.flatnonzero((offset <= position) & (position < offset + size))
        reader = reader_of(dataset, tmp_path)
        if len(inside):
            with pytest.raises(CorruptSampleError, match=rf"sample s{inside[0]:05d} in .*shards/000000.tar"):
                [reader.read(row) for row in range(24)]
            caught += 1
        else:
            assert [bytes(reader.read(row)) for row in range(24)] == [
                content[start : start + length] for start, length in zip(offset, size, strict=True)
            ]
    assert 20 < caught < 80
    (last,) = load(reader_of(dataset, tmp_path, "mask"), [still(range(24))])
    kept = last.weights > 0
    assert torch.equal(last.images[kept], plain.images[kept])


def test_a_stream_frees_its_pipeline_when_it_ends_or_is_left(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    run = run_of()
    made = []

    def watched(self, *given, **named):
        build(self, *given, **named)
        made.append(weakref.ref(self._pipeline))

    build = dali_pipeline.DaliBatches.__init__
    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dali_pipeline.DaliBatches, "__init__", watched)
            list(evaluation_batches.stored_batches(dataset, np.arange(40), run, torch.device("cpu")))
            left = evaluation_batches.stored_batches(dataset, np.arange(40), run, torch.device("cpu"))
            next(left)
            left.close()
        assert [one() for one in made] == [None, None]
    finally:
        gc.enable()
