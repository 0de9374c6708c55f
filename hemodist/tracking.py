"""Weights & Biases. Only this module imports it; nothing it does can stop or slow a run."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import wandb

from hemodist.config import TrackingConfig
from hemodist.manifest import sha256


def resolve_mode(config: TrackingConfig) -> Literal["online", "offline", "disabled"]:
    """The mode that `auto` stands for on this machine: online with a key, else offline."""
    if config.mode != "auto":
        return config.mode
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


class Tracker:
    """One W&B run, or none (on ranks that do not log, or with mode disabled)."""

    def __init__(self, run: Any, warn: Callable[[str], None]) -> None:
        """Wrap a W&B run; use `start`."""
        self._run = run
        self._warn = warn

    @classmethod
    def start(
        cls,
        config: TrackingConfig,
        *,
        name: str,
        local: Path | None,
        where: str,
        facts: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> Tracker:
        """Start the run, or go on with it after a restart: its id is derived from `where`.

        Args:
            config: mode and project.
            name: of the run.
            local: the run's folder, for W&B's files; None keeps them in a folder `wandb` of the working directory.
            where: the run's own place, the same after a restart.
            facts: the resolved configuration, digests and versions.
            warn: told, once, when W&B cannot be used.
        """
        mode = resolve_mode(config)
        tracker = cls(None, warn)
        if mode == "disabled":
            return tracker
        with tracker._tolerated("start"):
            folder = local or Path.cwd()
            folder.mkdir(parents=True, exist_ok=True)
            tracker._run = wandb.init(
                project=config.project,
                name=name,
                id=f"{name}-{sha256(where.encode())[:10]}",
                resume="allow",
                dir=str(folder),
                config=dict(facts),
                mode=mode,
                settings=wandb.Settings(silent=True, console="off"),
            )
            # W&B's own counter knows nothing of restarts; the optimizer's step is the axis of every panel.
            tracker._run.define_metric("step")
            tracker._run.define_metric("*", step_metric="step")
        return tracker

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log a row of scalars at an optimizer step."""
        if self._run is not None:
            with self._tolerated("log"):
                self._run.log({"step": step, **values})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary and close the run."""
        if self._run is not None:
            with self._tolerated("finish"):
                self._run.summary.update(dict(summary))
                self._run.finish()
                self._run = None
                wandb.teardown()  # ends W&B's own service process, which would otherwise wait for this one's end

    @contextlib.contextmanager
    def _tolerated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tracking is never worth a run
            self._run = None
            self._warn(f"W&B could not {verb} ({error}); the run goes on without it")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on."""
    names = ("hemodist", "torch", "torchvision", "nvidia-dali-cuda130", "ray", "numpy", "wandb")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
