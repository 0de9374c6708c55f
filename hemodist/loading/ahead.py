"""Makes the next item of an iterator on a thread, while the caller uses the last one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def one_ahead(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """The same items in the same order; each one is asked for when the caller takes the one before it.

    One thread makes all items. An error is raised in the caller's place of the item that it prevented. Who leaves early
    waits for the item in the making.

    Args:
        items: none of them is None; used by the thread alone from now on.
        device: a CUDA device becomes the thread's own, as it is the caller's; otherwise pinned memory would be
            another GPU's.
    """
    with ThreadPoolExecutor(1, "batch-ahead") as thread:
        if device.type == "cuda":
            thread.submit(torch.cuda.set_device, device).result()
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item
