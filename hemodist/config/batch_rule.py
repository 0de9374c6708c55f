"""How a recipe's learning rate follows the batch, where the batch is changed and the rate is not."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from hemodist.config.run import Run


def follow_batch(run: Run, recipe: Run, given: Collection[str] = ()) -> tuple[Run, str]:
    """Scale the rate with the batch: linearly for SGD, by the square root for AdamW.

    The result is a plain number and depends on nothing but the arguments, so the same command goes on with its rate.

    Sources: Goyal et al., 2017 (arXiv 1706.02677), section 2.1; Malladi et al., 2022 (arXiv 2205.10287), section 5.

    Args:
        run: the recipe's, with what flags have changed.
        recipe: as its function returns it.
        given: dotted names of the fields that the user has set, be it to the recipe's own value.

    Returns:
        The run, and where its rate is from, for people; empty where it is not scaled.

    >>> from hemodist.config.recipes import resnet18
    >>> wide = replace(resnet18(), batch=replace(resnet18().batch, global_batch_size=256))
    >>> scaled, why = follow_batch(wide, resnet18())
    >>> scaled.optim.lr, why
    (0.002, "the recipe's 0.001 times sqrt(256 / 64), since another batch is given and no optim.lr")
    >>> follow_batch(wide, resnet18(), {"optim.lr"})[0].optim.lr
    0.001
    """
    lr, size, before = run.optim.lr, run.batch.global_batch_size, recipe.batch.global_batch_size
    if "optim.lr" in given or isinstance(lr, str) or size == before or size < 1:  # the last is refused by `check`
        return run, ""
    linear = run.optim.name == "sgd"
    factor, written = (size / before, "{} / {}") if linear else (math.sqrt(size / before), "sqrt({} / {})")
    said = f"the recipe's {lr:g} times {written.format(size, before)}, since another batch is given and no optim.lr"
    return replace(run, optim=replace(run.optim, lr=lr * factor)), said


def lr_line(run: Run, lr_from: str) -> str:
    """A run's learning rate for its table of facts.

    Args:
        run: any.
        lr_from: as `follow_batch` gave it.
    """
    lr = run.optim.lr
    return ("to be found" if isinstance(lr, str) else f"{lr:.4g}") + (f", {lr_from}" if lr_from else "")
