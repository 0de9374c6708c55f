"""Weights & Biases. Only this module imports it; nothing it does can stop or slow a run.

W&B is spoken to on a thread of its own, through a queue: a call that hangs costs rows, never a step. What has been
logged is kept here as plain rows and goes into every checkpoint, because W&B itself forgets: a killed process takes up
to 32 KiB of an offline log with it, and two offline logs of one run replace each other when they are uploaded. So a
restart offline begins a new log, writes the checkpoint's rows into it and deletes the old one: the newest log always
holds the whole run, a row a logging step. A restart online sends what the server lacks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import wandb

import hemodist
from hemodist.config.operation import TrackingConfig
from hemodist.dataset.digest import sha256
from hemodist.reports.as_text import without_credentials
from hemodist.reports.shown_slices import Panel

FINISH_SECONDS = 120.0
"""What the end of a run waits for W&B, in seconds."""

PROBE_SECONDS = 10.0
"""What W&B's server may take to answer before a run is logged offline."""

CODE_FOLDERS = ("hemodist", "shards", "jobs")
"""Folders beside each other whose Python files are kept with a run; an installed package has no `jobs`."""

_QUEUE = 1000
"""Rows that may wait for W&B before further ones are dropped; hours of training."""

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def resolve_mode(config: TrackingConfig) -> Literal["online", "offline", "disabled"]:
    """The mode that `auto` stands for on this machine: online with a key, else offline."""
    if config.mode != "auto":
        return config.mode
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


def why_not_online() -> str:
    """Why W&B's server, asked once, does not take rows; empty where it would, or where it cannot be told."""
    server, key = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/"), os.environ.get("WANDB_API_KEY")
    basic = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": basic} if key else {})
    try:
        asked = urllib.request.Request(f"{server}/graphql", b'{"query": "query { viewer { id } }"}', headers)
        with urllib.request.urlopen(asked, timeout=PROBE_SECONDS) as answer:
            refused = json.load(answer)["data"]["viewer"] is None
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403)
    except OSError as error:
        return f"{server} cannot be reached ({getattr(error, 'reason', None) or error})"
    except (ValueError, LookupError, TypeError):  # another answer than W&B's
        refused = False
    return f"{server} does not accept the key in WANDB_API_KEY" if key and refused else ""


class Tracker:
    """One W&B run, or none (on ranks that do not log, or with mode disabled)."""

    def __init__(self, run: _Background | None = None, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Wrap a run; use `start`, or `Tracker()` for none."""
        self._run = run
        self._rows = [dict(row) for row in rows]
        self._sent = max(len(self._rows) - 1, 0)  # the newest row may still grow

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
        rows: Sequence[Mapping[str, Any]] = (),
        panel: Callable[[], Panel] | None = None,
        keep: Callable[[Path], None] | None = None,
    ) -> Tracker:
        """Start the run, or go on with it after a restart: its id is derived from `where`. Does not wait for W&B.

        Args:
            config: mode and project.
            name: of the run.
            local: the run's folder, for W&B's files; None keeps them in a folder `wandb` of the working directory.
            where: the run's own place, the same after a restart.
            facts: the resolved configuration, digests and versions; credentials in URIs are left out.
            warn: told, once, when W&B cannot be used, or not online; called from another thread.
            rows: what `state` gave when the run was saved.
            panel: makes the pictures that values named `panel` are predictions of; called from another thread.
            keep: given the folder of an offline log that is whole and closed, to put it elsewhere; called from another
                thread.
        """
        mode = resolve_mode(config)
        if mode == "disabled":
            return cls()
        identity = f"{name}-{sha256(where.encode())[:10]}"
        options = {"project": config.project, "name": name, "id": identity, "resume": "allow", "mode": mode}
        options |= {"dir": str(local or Path.cwd()), "config": without_credentials(dict(facts))}
        return cls(_Background(options, warn, panel, rows[:-1], keep), rows)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log values at an optimizer step; those of one step become one row, sent when a later step is logged.

        Args:
            step: not before that of the last call.
            values: numbers by name; `panel` holds the probabilities [n, 6] of the panel's slices.
        """
        if self._run is None:
            return
        if not self._rows or self._rows[-1]["step"] != step:
            self._send()
            self._rows.append({"step": step})
        self._rows[-1] |= values

    def state(self) -> list[dict[str, Any]]:
        """All rows so far, for the checkpoint; plain numbers and lists."""
        return [dict(row) for row in self._rows]

    def picture(self, name: str, image: npt.NDArray[np.uint8]) -> None:
        """Add a picture, uint8 [h, w, 3], to the newest row."""
        if self._run is not None:
            self._run.pictures[name] = image

    def finish(
        self,
        summary: Mapping[str, Any],
        curves: Mapping[str, Mapping[str, Curve]] | None = None,
        artifact: tuple[str, bytes] | None = None,
    ) -> None:
        """Send the last row and the summary and close the run; waits for W&B for `FINISH_SECONDS` at most.

        Args:
            summary: the main scores.
            curves: by plot, such as ROC, and label: the points (x, y); part of the last row.
            artifact: file name and content of a checkpoint that is to be kept at W&B.
        """
        if self._run is not None:
            self._send(curves or {})
            self._run.finish(dict(summary), artifact)
            self._run = None

    def _send(self, curves: Mapping[str, Mapping[str, Curve]] | None = None) -> None:
        if self._run is not None:
            for row in self._rows[self._sent :]:
                self._run.log(row | ({"curves": curves} if curves else {}))
        self._sent = len(self._rows)


class _Background:
    """A W&B run on a thread of its own."""

    def __init__(
        self,
        options: dict[str, Any],
        warn: Callable[[str], None],
        panel: Callable[[], Panel] | None,
        rows: Sequence[Mapping[str, Any]],
        keep: Callable[[Path], None] | None,
    ) -> None:
        self._options, self._warn, self._make_panel, self._first_rows = options, warn, panel, rows
        self._keep = keep
        self._panel: Panel | None = None
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(_QUEUE)
        self._dropped = 0
        self.pictures: dict[str, npt.NDArray[np.uint8]] = {}
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def log(self, row: Mapping[str, Any]) -> None:
        pictures, self.pictures = self.pictures, {}
        try:
            self._queue.put_nowait(lambda run: self._log(run, row, pictures))
        except queue.Full:
            self._dropped += 1

    def finish(self, summary: dict[str, Any], artifact: tuple[str, bytes] | None) -> None:
        def close(run: Any) -> None:
            run.summary.update(summary)
            _log_code(run)
            if artifact is not None:
                _log_file(run, *artifact)
            run.finish()
            wandb.teardown()  # ends W&B's own service process, which would otherwise wait for this one's end
            if self._keep is not None and self._options["mode"] == "offline":
                self._keep(Path(run.dir).parent)

        deadline = time.monotonic() + FINISH_SECONDS
        for call in (close, None):
            with contextlib.suppress(queue.Full):
                self._queue.put(call, timeout=max(deadline - time.monotonic(), 0.01))
        self._thread.join(max(deadline - time.monotonic(), 0.01))
        if self._thread.is_alive():
            self._warn(f"W&B has not taken everything within {FINISH_SECONDS:g} s; the run ends without it")
        if self._dropped:
            self._warn(f"W&B was too slow: {self._dropped} rows were dropped; history.json holds every epoch")

    def _work(self) -> None:
        run, verb = None, "start"
        try:
            run, verb = self._start_where_possible(), "log"
            for row in self._first_rows:
                self._log(run, row, {})
            while (call := self._queue.get()) is not None:
                call(run)
        except Exception as error:  # tracking is never worth a run
            self._warn(f"W&B could not {verb} ({error}); the run goes on without it")
            while self._queue.get() is not None:
                pass  # nobody waits for a queue that nobody empties

    def _start_where_possible(self) -> Any:
        """Start the run online where that is wanted and works, else offline."""
        if self._options["mode"] == "online":
            why = why_not_online()
            if not why:
                try:
                    return self._start()
                except Exception as error:  # of W&B, which has many
                    why = (str(error) or type(error).__name__).splitlines()[0]
            self._options["mode"] = "offline"
            self._warn(f"W&B is not online: {why}. The run is logged offline; `wandb sync` uploads it later")
        return self._start()

    def _start(self) -> Any:
        folder = Path(self._options["dir"])
        folder.mkdir(parents=True, exist_ok=True)
        old = list((folder / "wandb").glob(f"offline-run-*-{self._options['id']}*"))
        settings = wandb.Settings(
            silent=True,
            console="off",
            # Arguments, remotes and user names may hold what nobody meant to publish; `facts` says what matters.
            x_disable_meta=True,
            finish_timeout=FINISH_SECONDS,
            reinit="create_new",  # a run that failed in this process is still open, and not ours
        )
        run = wandb.init(**self._options, settings=settings)
        for superseded in old if self._options["mode"] == "offline" else []:
            if superseded.resolve() != Path(run.dir).parent.resolve():
                shutil.rmtree(superseded, ignore_errors=True)
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _log(self, run: Any, row: Mapping[str, Any], pictures: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        if row["step"] >= run.starting_step:  # where the server has none of it yet
            run.log(self._rich(dict(row), pictures), step=row["step"], commit=True)

    def _rich(self, row: dict[str, Any], pictures: Mapping[str, npt.NDArray[np.uint8]]) -> dict[str, Any]:
        """The row with W&B's pictures and charts in place of plain numbers."""
        if "panel" in row:
            if self._panel is None and self._make_panel is not None:
                self._panel = self._make_panel()
            if self._panel is not None:
                captions = self._panel.captions(np.asarray(row["panel"]))
                pairs = zip(self._panel.images, captions, strict=True)
                row["panel"] = [wandb.Image(image, caption=caption) for image, caption in pairs]
        row |= {name: wandb.Image(image) for name, image in pictures.items()}
        for name, lines in row.pop("curves", {}).items():
            xs, ys = [x.tolist() for x, _ in lines.values()], [y.tolist() for _, y in lines.values()]
            row[f"curves/{name}"] = wandb.plot.line_series(xs, ys, list(lines), name)
        return row


def _log_file(run: Any, name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model")
        artifact.add_file(str(file), policy="mutable")
        run.log_artifact(artifact)


def _log_code(run: Any) -> None:
    """Keep the source of all that a run can have executed: the library, the sharder and the jobs."""
    root = Path(hemodist.__file__).parents[1]
    artifact = wandb.Artifact(f"code-{run.id}", type="code")
    for folder in CODE_FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            artifact.add_file(str(file), name=str(file.relative_to(root)))
    run.log_artifact(artifact)
