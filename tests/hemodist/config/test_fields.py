"""What the fields say of themselves is what is checked and compared."""

from __future__ import annotations

import ast
import importlib
import inspect
import types
import typing
from dataclasses import is_dataclass, replace

import pytest

from hemodist.config.data import DataConfig
from hemodist.config.fields import DecidesBestLr, DecidesResult, DecidesSamples, check_ranges, fields_of, values_marked
from hemodist.config.recipes import demo
from hemodist.config.run import Run, check
from hemodist.errors import ConfigError

RUN = replace(demo(), data=replace(demo().data, dataset="somewhere"))
FIELDS = {field.name: field for field in fields_of(RUN)}

SAMPLES = {
    "seed",
    "batch.global_batch_size",
    "batch.mix_group",
    "batch.block_shards",
    "batch.sampling",
    "batch.label_weights",
    "augment.min_crop_area",
    "augment.flip_horizontal",
    "augment.flip_vertical",
    "augment.transpose",
    "augment.rotation_degrees",
    "augment.brightness",
    "augment.contrast",
    "mix.kind",
    "mix.probability",
    "mix.alpha",
    "model.image_size",
}
RESULT = SAMPLES | {
    "model.name",
    "model.activation",
    "model.channels",
    "model.sync_batch_norm",
    "model.ema_decay",
    "optim.name",
    "optim.lr",
    "optim.weight_decay",
    "optim.momentum",
    "optim.schedule",
    "optim.warmup_steps",
    "optim.final_lr_fraction",
    "optim.clip_norm",
    "optim.epochs",
    "optim.max_nonfinite",
    "stop.score",
    "stop.patience",
}
BEST_LR = SAMPLES - {"seed", "batch.mix_group", "batch.block_shards"} | {
    "model.name",
    "model.activation",
    "model.weights",
    "model.channels",
    "optim.name",
    "optim.weight_decay",
    "optim.momentum",
    "optim.clip_norm",
}


@pytest.mark.parametrize(
    ("mark", "names"), [(DecidesResult, RESULT), (DecidesSamples, SAMPLES), (DecidesBestLr, BEST_LR)]
)
def test_what_decides_is_marked_and_nothing_else(mark, names):
    marked = values_marked(RUN, mark)
    assert marked.keys() == names
    assert marked["batch.label_weights"] == RUN.batch.label_weights


def is_number(annotation) -> bool:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) in (typing.Union, tuple):
        return any(is_number(part) for part in typing.get_args(annotation))
    return annotation in (int, float)


def test_every_number_has_a_range_and_its_default_lies_in_it():
    assert {name for name, field in FIELDS.items() if is_number(field.type)} == {
        name for name, field in FIELDS.items() if field.range
    }
    check_ranges(Run("defaults"))


def of(name: str, value: object) -> Run:
    part, _, field = name.rpartition(".")
    return replace(RUN, **({part: replace(getattr(RUN, part), **{field: value})} if part else {field: value}))


CHECKED_HERE = [name for name, field in FIELDS.items() if field.range and not field.range.checked_by]


@pytest.mark.parametrize("name", CHECKED_HERE)
def test_a_number_beyond_either_end_of_its_range_is_refused_and_the_ends_are_not(name):
    field = FIELDS[name]
    many = 6 if isinstance(field.value, tuple) else None
    for end, outside in ((field.range.low, -1), (field.range.high, 1)):
        beyond = end + outside * max(abs(end) * 1e-3, 1)
        check_ranges(of(name, (end,) * many if many else end))
        wanted = f"{name} {beyond} is out of range; use {field.range.low:g} to {field.range.high:g}"
        if name == "data.prefetch" and beyond == 0:  # stands for None
            continue
        with pytest.raises(ConfigError) as error:
            check_ranges(of(name, (1, beyond, 1, 1, 1, 1) if many else beyond))
        assert str(error.value) == wanted


def test_what_is_checked_elsewhere_names_a_function_that_there_is():
    for field in FIELDS.values():
        if field.range and field.range.checked_by:
            module, _, function = field.range.checked_by.rpartition(".")
            assert callable(getattr(importlib.import_module(f"hemodist.{module}"), function))


@pytest.mark.parametrize(
    ("name", "value"),
    [("optim.lr", "found"), ("optim.warmup_steps", None), ("optim.momentum", None), ("data.cache_gb", None)],
)
def test_what_stands_for_a_number_passes(name, value):
    check(of(name, value))


def test_every_field_has_its_meaning_under_it_in_lines_that_end_a_sentence():
    parts = [type(part) for part in vars(RUN).values() if is_dataclass(part)]
    for part in (Run, *parts):
        body = ast.parse(inspect.getsource(part)).body[0].body
        for field, under in zip(body, [*body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or (field.target.id in vars(RUN) and is_dataclass(
                getattr(RUN, field.target.id)
            )):  # fmt: skip
                continue
            where = f"{part.__name__}.{field.target.id}"
            assert isinstance(under, ast.Expr), where
            # Command lines show these lines as they are.
            assert all(line.endswith((".", ":")) for line in under.value.value.splitlines()), where


def test_zero_batches_ahead_in_an_older_configuration_is_the_devices_own_number():
    values = RUN.to_dict()
    assert values["data"]["prefetch"] is None
    values["data"]["prefetch"] = 0
    assert Run.from_dict(values) == RUN
    assert [DataConfig().batches_ahead(device) for device in ("cuda", "cpu")] == [2, 1]
    assert DataConfig(prefetch=7).batches_ahead("cuda") == 7
