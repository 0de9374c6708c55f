from __future__ import annotations

from dataclasses import replace

import pytest

from hemodist.config.data import MixConfig
from hemodist.config.recipes import RECIPES, debug, demo
from hemodist.config.run import Run, check
from hemodist.errors import ConfigError

RUN = replace(demo(), data=replace(demo().data, dataset="somewhere"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_passes_its_own_checks_and_has_its_own_name(recipe):
    run = recipe()
    assert run.name == recipe.__name__
    assert recipe.__doc__
    check(replace(run, data=replace(run.data, dataset="somewhere")))


def test_a_run_survives_the_way_through_json_values():
    assert Run.from_dict(RUN.to_dict()) == RUN
    with pytest.raises(ConfigError, match="another version"):
        Run.from_dict(RUN.to_dict() | {"unheard_of": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../x"}, "name '../x'"),
        ({"data": demo().data}, "--data.dataset"),
        ({"batch": replace(RUN.batch, global_batch_size=33)}, "use 32 or 40"),
        ({"scaling": replace(RUN.scaling, workers=9)}, "too few for 9 workers"),
        ({"batch": replace(RUN.batch, accumulate=3)}, "batch.accumulate 2 or less"),
        ({"mix": MixConfig("cutmix"), "batch": replace(RUN.batch, mix_group=1)}, "batch.mix_group is 1; use 2 or more"),
        ({"optim": replace(RUN.optim, lr=-1.0)}, "optim.lr -1.0 is out of range"),
        ({"augment": replace(RUN.augment, flip_horizontal=1.5)}, "augment.flip_horizontal 1.5"),
        ({"seed": -1}, "seed -1"),
        ({"stop": replace(RUN.stop, patience=-1)}, "stop.patience -1"),
        ({"checkpoint": replace(RUN.checkpoint, every_minutes=-1.0)}, "checkpoint.every_minutes -1.0"),
        ({"tracking": replace(RUN.tracking, images=5000)}, "tracking.images 5000"),
    ],
)
def test_bad_configuration_is_named_with_the_remedy(change, message):
    with pytest.raises(ConfigError, match=message):
        check(replace(RUN, **change))


def test_debug_runs_in_one_process_without_tracking():
    assert debug().scaling.workers == 0
    assert debug().tracking.mode == "disabled"


def test_a_learning_rate_that_is_to_be_found_is_no_number_before_it_is():
    run = replace(RUN, optim=replace(RUN.optim, lr="found"))
    check(run)
    with pytest.raises(ConfigError, match="find_lr"):
        _ = run.optim.peak
    assert RUN.optim.peak == RUN.optim.lr
