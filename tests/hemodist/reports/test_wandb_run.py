"""W&B: the offline log holds the whole run, once; and W&B never stops or slows anything."""

from __future__ import annotations

import base64
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow.fs as pafs
import pytest

from hemodist.config.data import BatchConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.events import EpochDone, Note, Started
from hemodist.plan.prepare import prepare
from hemodist.reports import versions, wandb_run
from hemodist.reports.run_log import RunLog
from hemodist.reports.shown_slices import Panel, choose
from hemodist.reports.wandb_run import Tracker
from hemodist.storage.store import Store
from hemodist.training import loop
from hemodist.training.loop import Training
from hemodist.world import World
from tests.support import wandb_log
from tests.support.dataset import make_dataset
from tests.support.forks import forking
from tests.support.wandb_log import read

SECRET = "f00dface" * 5  # as long as a key of W&B


def run_of(folder: Path, **changes) -> Run:
    run = Run(
        name="tracked",
        output=str(folder / "runs"),
        batch=BatchConfig(global_batch_size=16, mix_group=8),
        model=ModelConfig(name="squeezenet1_1", image_size=32),
        optim=OptimConfig(lr=1e-4, epochs=2, clip_norm=1.0),
        scaling=ScalingConfig(workers=0),
        tracking=TrackingConfig(mode="offline", log_every=2, images=4, artifacts=True),
    )
    run = replace(run, data=replace(run.data, dataset=str(folder / "data"), decode_threads=1))
    return replace(run, checkpoint=replace(run.checkpoint, every_steps=3), **changes)


def silent(event) -> None:
    """A `Tell` that nobody hears."""


def train_and_die(run: Run) -> None:
    """Train in a process that kills itself after a row that no checkpoint holds, once W&B has begun its log."""
    update = Training.update

    def dying(self, batch, lr=None):
        result = update(self, batch, lr)
        if batch.number == 8:
            while not list(Path(run.output).glob("tracked/wandb/offline-run-*/run-*.wandb")):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Training.update = dying
    loop.train(run, World.alone(), silent)


def test_the_offline_log_of_a_run_that_was_killed_holds_every_row_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    make_dataset(tmp_path / "data", samples=100)
    run = run_of(tmp_path)
    killed = forking().Process(target=train_and_die, args=(run,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    said = []
    loop.train(run, World.alone(), said.append)
    assert any("going on at step" in event.text for event in said if isinstance(event, Note))
    assert not any("W&B" in event.text for event in said if isinstance(event, Note))

    (folder,) = (tmp_path / "runs/tracked/wandb").glob("offline-run-*")  # the first log is replaced
    config, history = read(folder)
    total = next(event.total for event in said if isinstance(event, Started))
    epochs = [event.row["step"] for event in said if isinstance(event, EpochDone)]
    steps = [row["_step"] for row in history]
    assert steps == sorted(set(steps))
    assert [row["step"] for row in history if "loss" in row] == sorted({*range(2, total + 1, 2), total})
    assert [row["step"] for row in history if "epoch/auc_any" in row][-len(epochs) :] == epochs
    assert [row["step"] for row in history if "epoch/auc_any" in row] == [total // 2 + total % 2, total]
    for name in ("lr", "images_per_s", "data_wait_share", "gradient_norm"):
        assert all(name in row for row in history if "loss" in row)

    panels = [row["panel"] for row in history if "panel" in row]
    assert [panel["count"] for panel in panels] == [4, 4]
    assert all("readers:" in caption and "network: any 0." in caption for caption in panels[-1]["captions"])
    for panel in panels:
        for name in panel["filenames"]:
            assert (folder / "files" / name).stat().st_size > 100
    assert {"curves/ROC_table", "curves/precision and recall_table"} <= history[-1].keys()

    assert config["optim"]["lr"] == 1e-4
    assert config["facts"]["data set digest"]
    assert {"torch", "git revision", "python"} <= config["versions"].keys()
    for file in folder.rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()


def test_the_code_of_a_run_is_all_of_the_library_the_sharder_and_the_jobs(tmp_path):
    tracker = wandb_run.Tracker.start(
        TrackingConfig(mode="offline"), name="code", local=tmp_path, where="here", facts={}, warn=pytest.fail
    )
    tracker.log(1, {"loss": 1.0})
    tracker.finish({})
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    (code,) = [record.artifact for record in wandb_log.records(log) if record.WhichOneof("record_type") == "artifact"]
    written = {entry.path for entry in code.manifest.contents}
    root = Path(__file__).parents[3]
    there = {
        str(file.relative_to(root)) for name in ("hemodist", "shards", "jobs") for file in (root / name).rglob("*.py")
    }
    assert code.type == "code"
    assert written == there


def test_the_revision_of_an_image_is_not_taken_for_that_of_submitted_code(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("HEMODIST_REVISION", "abc123")
    monkeypatch.setattr(versions.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path / "installed")})
    for folder, said in (("installed", "abc123"), ("working_dir", "abc123+submitted")):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(versions, "__file__", str(tmp_path / folder / "versions.py"))
        assert versions.revision() == said
    monkeypatch.delenv("HEMODIST_REVISION")
    assert versions.revision() == "unknown"


def test_where_a_run_is_no_folder_its_offline_log_ends_there_too_and_replaces_that_of_an_earlier_end(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # what a node would lose
    make_dataset(tmp_path / "data", samples=100)
    run = run_of(tmp_path, tracking=TrackingConfig(mode="offline", images=0))
    bucket = Store("memory://bucket", "/bucket", pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem("memory"))))
    said: list[str] = []
    rows: list = []
    for steps in ((1, 2), (3, 4)):
        journal = RunLog(run, prepare(run), bucket, rows, said.append)
        for step in steps:
            journal.log(step, {"loss": 1.0 / step})
        rows = journal.state()
        journal.close({})
        kept = [name for name, _ in bucket.list("wandb") if name.endswith(".wandb")]
        assert len(kept) == 1, kept
        (tmp_path / "read").mkdir(exist_ok=True)
        (tmp_path / "read" / "run-x.wandb").write_bytes(bucket.read(kept[0]))
        config, history = read(tmp_path / "read")
        assert [row["step"] for row in history] == list(range(1, steps[-1] + 1))
        assert config["facts"]["data set digest"]
    assert said == []


def test_credentials_in_uris_are_not_logged():
    hidden = wandb_run.without_credentials({"a": ["s3://KEY:SECRET@bucket/x?token=T"], "b": 3, "c": "plain: a/b?"})
    assert hidden == {"a": ["s3://bucket/x"], "b": 3, "c": "plain: a/b?"}


def fake_run(log) -> SimpleNamespace:
    return SimpleNamespace(
        log=log, starting_step=0, dir="nowhere/files", id="x", summary={}, define_metric=lambda *a, **k: None,
        finish=lambda: None, log_artifact=lambda artifact: None,
    )  # fmt: skip


def start(tmp_path, said, rows=()) -> Tracker:
    return Tracker.start(
        TrackingConfig(mode="offline"), name="x", local=tmp_path, where="here", facts={}, warn=said.append, rows=rows
    )


def test_a_failing_tracker_is_named_once_and_never_stops_the_run(tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise RuntimeError("the server is gone")

    monkeypatch.setattr(wandb_run.wandb, "init", lambda **options: fake_run(failing))
    said: list[str] = []
    tracker = start(tmp_path, said)
    for step in range(5):
        tracker.log(step, {"loss": 1.0})
    tracker.finish({"score": 1.0})
    assert said == ["W&B could not log (the server is gone); the run goes on without it"]
    assert [row["step"] for row in tracker.state()] == list(range(5))


def test_a_tracker_that_cannot_start_never_stops_the_run(tmp_path, monkeypatch):
    def failing(**options):
        raise OSError("no network")

    monkeypatch.setattr(wandb_run.wandb, "init", failing)
    said: list[str] = []
    tracker = start(tmp_path, said)
    tracker.log(1, {"loss": 1.0})
    tracker.finish({})
    assert said == ["W&B could not start (no network); the run goes on without it"]


@pytest.fixture
def server():
    """Answers as W&B's server does: to one key with a user, to others with none; `refuse` with a status instead."""
    known = base64.b64encode(f"api:{SECRET}".encode()).decode()

    class Answers(BaseHTTPRequestHandler):
        refuse = 0

        def do_POST(self):
            viewer = '{"id": "u"}' if self.headers["Authorization"] == f"Basic {known}" else "null"
            self.send_response(Answers.refuse or 200)
            self.end_headers()
            self.wfile.write(f'{{"data": {{"viewer": {viewer}}}}}'.encode())

        def log_message(self, *arguments):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", Answers
        running.shutdown()


def modes_of(tmp_path, monkeypatch, said, fails=()) -> list[str]:
    """In which modes a run that is wanted online was begun."""
    begun = []

    def init(**options):
        begun.append(options["mode"])
        if options["mode"] in fails:
            raise RuntimeError("run is in use\nand more")
        return fake_run(lambda *a, **k: None)

    monkeypatch.setattr(wandb_run.wandb, "init", init)
    tracker = Tracker.start(
        TrackingConfig(mode="online"), name="x", local=tmp_path, where="here", facts={}, warn=said.append
    )
    tracker.log(1, {"loss": 1.0})
    tracker.finish({})
    return begun


def test_a_key_that_works_is_online(tmp_path, monkeypatch, server):
    monkeypatch.setenv("WANDB_BASE_URL", server[0])
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    said: list[str] = []
    assert modes_of(tmp_path, monkeypatch, said) == ["online"]
    assert said == []


@pytest.mark.parametrize("status", [200, 401, 403])
def test_a_key_that_does_not_work_is_said_and_the_run_is_logged_offline(tmp_path, monkeypatch, server, status):
    monkeypatch.setenv("WANDB_BASE_URL", server[0])
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    server[1].refuse = status
    said: list[str] = []
    assert modes_of(tmp_path, monkeypatch, said) == ["offline"]
    (line,) = said
    assert f"{server[0]} does not accept the key" in line
    assert "`wandb sync`" in line
    assert "0" * 40 not in line


def test_what_wandb_itself_refuses_online_is_logged_offline(tmp_path, monkeypatch, server):
    monkeypatch.setenv("WANDB_BASE_URL", server[0])
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    said: list[str] = []
    assert modes_of(tmp_path, monkeypatch, said, fails=("online",)) == ["online", "offline"]
    assert said == ["W&B is not online: run is in use. The run is logged offline; `wandb sync` uploads it later"]


def test_without_a_network_the_run_is_logged_offline_and_that_is_said_at_once(tmp_path, monkeypatch):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "no key at all")
        said: list[str] = []
        tracker = Tracker.start(
            TrackingConfig(mode="auto"), name="x", local=tmp_path, where="here", facts={}, warn=said.append
        )
        tracker.log(1, {"loss": 0.5})
        tracker.finish({})
    assert "cannot be reached (" in said[0]
    assert len(said) == 1
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert [row["loss"] for row in read(folder)[1]] == [0.5]


def test_a_tracker_that_hangs_slows_nothing_and_the_end_does_not_wait_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 0.5)
    monkeypatch.setattr(wandb_run.wandb, "init", lambda **options: fake_run(lambda *a, **k: time.sleep(900)))
    said: list[str] = []
    tracker = start(tmp_path, said)
    before = time.monotonic()
    for step in range(3000):  # more than may wait
        tracker.log(step, {"loss": 1.0})
    tracker.finish({})
    assert time.monotonic() - before < 300  # of the 900 for which each row hangs
    assert any("has not taken everything" in text for text in said)
    assert any("rows were dropped" in text for text in said)


def test_a_run_after_one_that_failed_in_this_process_has_a_log_of_its_own(tmp_path):
    said: list[str] = []
    trackers = {
        name: Tracker.start(
            TrackingConfig(mode="offline"),
            name=name,
            local=tmp_path / name,
            where=name,
            facts={},
            warn=said.append,
            rows=[],
        )
        for name in ("failed", "next")
    }
    for number, tracker in enumerate(trackers.values()):
        tracker.log(1, {"loss": float(number)})
    trackers["next"].finish({"score": 0.5})
    assert said == []
    (folder,) = (tmp_path / "next/wandb").glob("offline-run-*")
    _, history = read(folder)
    assert [row["loss"] for row in history] == [1.0]
    assert len(list((tmp_path / "failed/wandb").glob("offline-run-*"))) == 1
    trackers["failed"].finish({})


def test_values_of_one_step_are_one_row_and_a_restart_sends_what_the_checkpoint_holds(tmp_path, monkeypatch):
    sent: list[tuple[int, dict]] = []
    monkeypatch.setattr(
        wandb_run.wandb, "init", lambda **options: fake_run(lambda row, step, commit: sent.append((step, row)))
    )
    first = start(tmp_path, [])
    first.log(2, {"loss": 0.5})
    first.log(4, {"loss": 0.4})
    first.log(4, {"epoch/auc_any": 0.7})
    saved = first.state()
    first.log(6, {"loss": 0.3})  # lost with the process
    first.finish({})
    assert [step for step, _ in sent] == [2, 4, 6]
    sent.clear()
    again = start(tmp_path, [], rows=saved)
    again.log(6, {"loss": 0.3})
    again.finish({})
    assert sent == [
        (2, {"step": 2, "loss": 0.5}),
        (4, {"step": 4, "loss": 0.4, "epoch/auc_any": 0.7}),
        (6, {"step": 6, "loss": 0.3}),
    ]


def test_the_panel_shows_the_windows_side_by_side_and_both_kinds_of_slices():
    labels = np.zeros((20, 6), np.int8)
    labels[[3, 7, 11, 15], 0] = 1
    labels[3, 2] = -1
    rows = choose(np.arange(2, 20), labels, 6)
    assert rows.tolist() == [2, 3, 4, 5, 7, 11]
    panel = Panel([np.zeros((4, 12, 3), np.uint8)] * 6, [f"s{row}" for row in rows], labels[rows])
    captions = panel.captions(np.full((6, 6), 0.25))
    assert captions[0].startswith("s2 | readers: none | network: any 0.25")
    assert "readers: any, intraparenchymal unknown |" in captions[1]
