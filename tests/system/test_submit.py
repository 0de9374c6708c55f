"""Jobs submitted to a real Ray cluster: they run what was submitted, stop, go on, and give nothing away."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hemodist.dataset.dataset import DataSet
from tests.support.dicom_files import dicom_file, hu_image
from tests.support.ray_head import Cluster, copy_of_the_tree, ray_head

SECRETS = {
    "WANDB_API_KEY": "plantedwandbkey0123456789abcdef0123456789",
    "AWS_SECRET_ACCESS_KEY": "plantedAwsSecret0123456789abcdefghijkl",
    "HEMODIST_PSEUDONYM_KEY": "0ddba11c0ffee0ddba11c0ffee0ddba1",
}
"""Given to the cluster by its environment, as Kubernetes gives them to pods."""

PATIENT = "Planted^Patient"
NUMBER = "PLANTED-4711-"
"""Name and number of every patient of the source; the number is followed by the patient's own."""

EPOCHS = 24


@dataclass
class Session:
    """What a user did, and what came of it.

    Attributes:
        cluster: as it is at the end.
        folder: source, data set and runs.
        printed: by each job, as the submitter saw it.
        statuses: of each job at its end.
        left: training workers that were running after the stop.
        sent: names and sizes of the files that travelled.
        metrics: that the head offered to Prometheus while training.
        listing: `ray job list`, and the job server's answer to the same question.
        reported: epochs that each training worker has reported to Ray Train, as Ray's own logs have them.
    """

    cluster: Cluster
    folder: Path
    printed: dict[str, str]
    statuses: dict[str, str]
    left: list[str]
    sent: dict[str, int]
    listing: str
    metrics: str
    reported: list[list[int]]


def write_dicom(folder: Path, patients: int = 16, each: int = 6) -> None:
    """Slices with labels; the patients' names and numbers are planted."""
    (folder / "stage_2_train").mkdir(parents=True)
    rows = ["ID,Label"]
    names = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
    for number in range(patients * each):
        name, patient = f"ID_{number:09x}", number // each
        content = dicom_file(
            hu_image(32, number), SOPInstanceUID=f"2.25.9{number}", PatientID=f"{NUMBER}{patient}",
            PatientName=f"{PATIENT}{patient}", PatientBirthDate="19580712",
            StudyInstanceUID=f"2.25.1{patient}", SeriesInstanceUID=f"2.25.2{patient}",
        )  # fmt: skip
        (folder / "stage_2_train" / f"{name}.dcm").write_bytes(content)
        rows += [f"{name}_{label},{int(number % 3 == 0 and label in ('any', 'subdural'))}" for label in names]
    (folder / "stage_2_train.csv").write_text("\n".join(rows) + "\n")


def follow(process: subprocess.Popen[str], text: str) -> str:
    """Read a job's output until a line holds a text; returns all of it."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"the job ended without {text!r}:\n{seen}")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Shard, train, stop in the middle, train again, evaluate: each by `ray job submit` from a copy of the tree."""
    folder = tmp_path_factory.mktemp("submit")
    write_dicom(folder / "source")
    tree = copy_of_the_tree(folder / "tree")
    # What runs must be what was submitted, not the package that the image has installed.
    launch = tree / "hemodist/launch/train.py"
    launch.write_text(launch.read_text().replace('f"Run {run.name}"', 'f"Submitted run {run.name}"'))
    # What must not travel.
    for name in (
        "patient.dcm",
        "shards/000000.tar",
        "runs/run/last.pt",
        "secret.key",
        ".env",
        "demo/dataset/index.parquet",
        "rsna/stage_2_train.csv",
        "rsna-256/shards/000000.idx",
        "pseudonym-key",
        "jobs/.env",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(SECRETS["WANDB_API_KEY"].encode() + bytes(1000))

    dataset, runs = folder / "dataset", folder / "runs"
    train = [
        "jobs/train.py", "demo", "--name", "submitted", "--data.dataset", dataset, "--output", runs,
        "--model.name", "shufflenet_v2_x0_5", "--model.image-size", 32, "--batch.global-batch-size", 16,
        "--optim.epochs", EPOCHS, "--scaling.workers", 2, "--tracking.mode", "offline", "--tracking.log-every", 1,
    ]  # fmt: skip
    printed: dict[str, str] = {}
    # Nobody listens at the discard port: W&B cannot be reached, and nothing leaves this machine.
    with ray_head(cpus=2, env=SECRETS | {"WANDB_BASE_URL": "http://127.0.0.1:9"}) as cluster:
        doctor = cluster.submit(
            tree, "doctor", "jobs/doctor.py", "--storage", runs, "--megabytes", 1, "--ring-mebibytes", 1
        )
        printed["doctor"], _ = doctor.communicate()
        printed["shard"] = cluster.run(
            tree, "shard", "jobs/shard.py", "--source", folder / "source/stage_2_train", "--output", dataset,
            "--size", 32, "--samples-per-shard", 16, "--encoding", "png",
        )  # fmt: skip
        first = cluster.submit(tree, "train-1", *train)
        printed["train-1"] = follow(first, "    2    ")
        metrics = cluster.metrics_with("ray_hemodist_images_per_s", first)
        cluster.ask("stop", "train-1")
        printed["train-1"] += first.communicate()[0]
        left = [" ".join(process.cmdline()) for process in cluster.processes("RayTrainWorker")]
        printed["train-2"] = cluster.run(tree, "train-2", *train)
        printed["evaluate"] = cluster.run(tree, "evaluate", "jobs/evaluate.py", runs / "submitted", dataset)
        statuses = {name: cluster.status(name) for name in printed}
        packages = cluster.temp.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*")
        (package,) = (path for path in packages if path.is_dir())
        sent = {
            str(path.relative_to(package)): path.stat().st_size
            for path in package.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        listing = cluster.ask("list") + json.dumps(cluster.get("/api/jobs/"))
        logs = cluster.temp.glob("session_2*/logs/train/ray-train-app-worker-*.log")
        rows = [
            re.findall(r"TrainingReport\(checkpoint=None, metrics={'epoch': (\d+),", log.read_text()) for log in logs
        ]
        reported = sorted([int(epoch) for epoch in epochs] for epochs in rows if epochs)
        yield Session(cluster, folder, printed, statuses, left, sent, listing, metrics, reported)


def test_jobs_run_as_submitted_and_their_output_streams_back(session: Session) -> None:
    assert session.statuses == {
        "doctor": "FAILED", "shard": "SUCCEEDED", "train-1": "STOPPED", "train-2": "SUCCEEDED", "evaluate": "SUCCEEDED",
    }  # fmt: skip
    assert DataSet.open(str(session.folder / "dataset")).manifest.samples == 96
    assert "96" in session.printed["shard"]
    assert "Submitted run submitted" in session.printed["train-1"]
    assert "report.html" in session.printed["evaluate"]


def test_a_stopped_job_leaves_no_worker_and_the_same_command_goes_on(session: Session) -> None:
    assert session.left == []
    (step,) = re.findall(r"going on at step (\d+) of", session.printed["train-2"])
    assert int(step) >= 2 * 5
    history = json.loads((session.folder / "runs/submitted/history.json").read_text())
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))


def test_the_doctor_looks_at_the_nodes_and_says_what_is_missing(session: Session) -> None:
    text = session.printed["doctor"]
    verdicts = {check: [line for line in text.splitlines() if f" {check} " in line] for check in
                ("versions", "GPUs", "shared memory", "decoding", "storage", "clock", "all-reduce", "W&B")}  # fmt: skip
    for check in ("versions", "decoding", "storage", "clock", "all-reduce"):
        assert any(" pass " in line for line in verdicts[check]), text
    assert any("not there" in line or "pass" in line for line in verdicts["GPUs"])
    assert "to do" in verdicts["W&B"][0]
    assert "gloo, 2 ranks" in text
    assert "1 of " in text
    assert "findings want something done" in text


def test_the_runs_figures_are_shown_to_prometheus(session: Session) -> None:
    for name in ("images_per_s", "data_wait_share", "loss", "step", "steps_total", "corrupt_samples"):
        pattern = rf'^ray_hemodist_{name}{{[^}}]*rank="0"[^}}]*run="submitted"[^}}]*}} [0-9.e+-]+$'
        assert re.search(pattern, session.metrics, re.MULTILINE), name
    assert re.search(r'ray_hemodist_data_wait_share{[^}]*rank="1"', session.metrics)  # of every rank, not rank 0's only


def test_every_rank_reports_each_epoch_to_ray_train_once_an_attempt_and_no_checkpoint(session: Session) -> None:
    first, other, again, last = session.reported
    (step,) = map(int, re.findall(r"going on at step (\d+) of", session.printed["train-2"]))
    assert first == other == list(range(1, len(first) + 1))
    history = json.loads((session.folder / "runs/submitted/history.json").read_text())
    left_to_do = [row["epoch"] for row in history if row["step"] > step]
    assert again == last == left_to_do
    lines = [line for text in session.printed.values() for line in text.splitlines()]
    assert [line for line in lines if "Reporting training result" in line] == []  # the terminal has a line of its own


def test_little_travels_and_neither_data_nor_keys(session: Session) -> None:
    assert "jobs/train.py" in session.sent
    assert {Path(name).parts[0] for name in session.sent} == {"hemodist", "shards", "jobs"}
    assert not [name for name in session.sent if name.endswith((".dcm", ".tar", ".pt", ".key", ".parquet", ".env"))]
    assert sum(session.sent.values()) < 2_000_000


def test_no_secret_and_no_patient_is_in_a_log_a_listing_or_a_run(session: Session) -> None:
    planted = [value.encode() for value in SECRETS.values()] + [PATIENT.encode(), NUMBER.encode()]
    shown = {"listing": session.listing.encode()} | {name: text.encode() for name, text in session.printed.items()}
    for place in (session.folder / "runs", session.folder / "dataset", session.cluster.temp):
        for path in place.rglob("*"):
            if path.is_file() and not path.is_symlink():
                table = path.suffix == ".parquet"  # compressed
                shown[str(path)] = str(pq.read_table(path).to_pylist()).encode() if table else path.read_bytes()
    assert any(name.endswith(".wandb") for name in shown)
    assert any("job-driver-train-1" in name for name in shown)
    found = [(name, text.decode()) for name, content in shown.items() for text in planted if text in content]
    assert found == []
