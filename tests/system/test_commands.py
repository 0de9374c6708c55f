"""Every command that a document shows is run by a test, or says what it needs and is at least understood.

The tutorial's commands are run by `tests/system/test_tutorial.py`. Of the other documents, those of `HERE` are run
below with stand-ins for RSNA's data, those of `ELSEWHERE` by another test, and those of `NOT_RUN` by none.
"""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import tyro

from hemodist.dataset.dataset import DataSet
from shards import __main__ as tools
from shards.phantom import generate
from tests.support.checkpoints import make_checkpoint
from tests.support.commands import ROOT, Command, commands, parse
from tests.support.dataset import make_dataset

TUTORIAL = "jobs/TUTORIAL.md"
DOCUMENTS = ("README.md", "k8s/README.md", "k8s/CAPACITY.md", TUTORIAL)

SAYS = {
    "a cluster": r"needs? a (Kubernetes )?cluster",
    "RSNA's data": r"needs? RSNA's data",
    "a GPU": r"needs? a GPU",
    "Docker": r"needs? Docker",
    "the internet": r"download|upload|install",
}
"""What a command may need that is not here, and how its section must say so before or beside it."""

NOT_RUN = {
    r"ray job .*": "a cluster",
    r"export RAY_.*": "a cluster",
    r"kubectl (?!kustomize).*": "a cluster",
    r"docker .*": "Docker",
    r"kaggle .*": "the internet",
    r"wandb sync .*": "the internet",
    r"python3 -m venv .*|pip install .*|uvx pre-commit install": "the internet",
    r"python jobs/train\.py (resnet18|densenet161_cutmix) --data\.dataset rsna-256 .*": "RSNA's data",
    r"python jobs/find_lr\.py alexnet_lr_found": "RSNA's data",
    r"python jobs/study\.py --data\.dataset rsna-256 .*": "RSNA's data",
    r"pytest -m gpu.*|python jobs/bench\.py (gpu .*|.*--device cuda.*)": "a GPU",
}
"""Commands that no test runs, and what for."""

ELSEWHERE = {
    r"python jobs/demo\.py": "tests/system/test_demo.py",
    r"python jobs/doctor\.py": "tests/system/test_doctor.py",
    r"python jobs/bench\.py \w+( --quick)?": "tests/system/test_bench.py",
    r"python -m hemodist\.bench\.capacity > k8s/CAPACITY\.md": "tests/hemodist/bench/test_capacity.py",
    r"kubectl kustomize .*": "tests/k8s/test_manifests.py",
    r"pytest( -n 2 --dist loadfile)?|\.ci/run": "tests/conftest.py",
    r"pytest -m faults": "tests/faults/conftest.py",
}
"""Commands that other tests run, or that run the tests."""

SMALL = (
    *("--model.name", "resnet18", "--model.weights", "none", "--model.image-size", "32"),
    *("--batch.global-batch-size", "16", "--tracking.mode", "disabled"),
)
HERE = {
    r"python jobs/shard\.py --source rsna/stage_2_train --output rsna-256( --dry-run)?": ("--workers", "0"),
    r"python -m shards (verify|show) rsna-256( --rejected)?": (),
    r"python jobs/train\.py( RECIPE)? --help": (),
    r"python jobs/train\.py debug --data\.dataset demo/dataset": (*SMALL, "--optim.epochs", "1"),
    r"python jobs/find_lr\.py alexnet_lr_found --data\.dataset rsna-256": (
        *(*SMALL, "--scaling.workers", "0", "--steps", "40"),
    ),
    r"python jobs/evaluate\.py runs/densenet161_cutmix rsna-256( --tta| --review 200)?": (),
    r"python jobs/predict\.py runs/densenet161_cutmix scans/ .*": (),
    r"python jobs/export\.py runs/densenet161_cutmix .*": (),
}
"""Commands that are run below, and flags that make them small."""


def found_in(table: dict[str, object], command: Command) -> object:
    text = " ".join(command.words)
    return next((value for pattern, value in table.items() if re.fullmatch(pattern, text)), None)


def of(*tables: dict) -> list[Command]:
    """The commands of the tables, each text once."""
    every = {" ".join(c.words): c for document in DOCUMENTS for c in commands(document) if document != TUTORIAL}
    return [command for command in every.values() if any(found_in(table, command) is not None for table in tables)]


def named(command: Command) -> str:
    return f"{command.document}:{command.line}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_run_by_a_test_or_says_what_it_needs(document: str) -> None:
    shown = commands(document)
    assert len(shown) > 1
    for command in shown:
        need = found_in(NOT_RUN, command)
        if need is not None:
            assert re.search(SAYS[str(need)], command.section), f"{command}\nneeds {need}; its section must say so"
        elif document != TUTORIAL:
            assert found_in(ELSEWHERE, command) or found_in(HERE, command) is not None, f"{command}\nis run by no test"


def test_the_tables_hold_nothing_that_no_document_shows() -> None:
    texts = {" ".join(command.words) for document in DOCUMENTS for command in commands(document)}
    for pattern in (*NOT_RUN, *ELSEWHERE, *HERE):
        assert any(re.fullmatch(pattern, text) for text in texts), pattern


def test_the_tests_that_run_commands_exist_and_name_what_they_run() -> None:
    for pattern, file in ELSEWHERE.items():
        job = re.search(r"jobs/(\w+)", pattern)
        assert (job[1] if job else "") in (ROOT / file).read_text()


@pytest.mark.parametrize("command", of(NOT_RUN, ELSEWHERE), ids=named)
def test_what_is_not_run_here_is_understood(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the job's own command line; Ray's own; or, of other programs, the files that they are given exist."""
    words = command.words
    if words[:3] == ["ray", "job", "submit"]:
        from ray.dashboard.modules.job.cli import submit

        submit.make_context("submit", words[3:])
        words = words[words.index("--") + 1 :]
    if words[0] == "python" and words[1].startswith("jobs/"):
        parse(ROOT / words[1], words[2:], monkeypatch)
        return
    for word in words:
        if word.startswith("k8s/"):
            assert (ROOT / word).exists()


def test_a_flag_that_does_not_exist_is_not_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(ROOT / "jobs/train.py", ["resnet18", "--data.datasets", "x"], monkeypatch)
    assert ended.value.code == 2
    assert "--data.datasets" in capsys.readouterr().err


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documents name: RSNA's files, data sets, a trained run and unlabelled scans."""
    folder = tmp_path_factory.mktemp("documents")
    generate.generate(folder / "rsna", slices=24, size=128, workers=1)
    generate.generate(folder / "new", slices=4, size=128, seed=1, workers=1)
    (folder / "new/stage_2_train").rename(folder / "scans")
    drawn = make_dataset(folder / "drawn", samples=150, size=64, encoding="JPEG")
    make_checkpoint(folder / "runs/densenet161_cutmix", dataset=DataSet.open(str(drawn)))
    make_checkpoint(folder / "runs-on-scans/densenet161_cutmix")
    return folder


@pytest.mark.parametrize("command", of(HERE), ids=named)
def test_it_runs(command: Command, stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["resnet18" if word == "RECIPE" else word for word in command.words]
    runs = "runs-on-scans" if "jobs/predict.py" in words else "runs"
    for name, real in (("rsna", "rsna"), ("scans", "scans"), ("runs", runs), ("demo/dataset", "drawn")):
        if any(word.startswith(name) for word in words):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).symlink_to(stand_ins / real)
    monkeypatch.chdir(tmp_path)
    if words[1:3] == ["-m", "shards"]:  # these look at a whole data set, as the sharder makes it
        run(["python", "jobs/shard.py", "--source", "rsna", "--output", "rsna-256", "--workers", "0"], monkeypatch)
    elif words[1] != "jobs/shard.py":
        (tmp_path / "rsna-256").symlink_to(stand_ins / "drawn")
    extra = found_in(HERE, command)
    assert isinstance(extra, tuple)
    run([*words, *extra], monkeypatch)
    if "--dry-run" not in words and "--output" in words:
        assert (tmp_path / words[words.index("--output") + 1]).exists()
    left = {"train": "runs/debug/report.html", "find_lr": "runs/alexnet_lr_found/find_lr/found_lr.json"}
    left |= {"evaluate": "runs/densenet161_cutmix/evaluation/report.html", "show": "contact_sheet.png"}
    for name, file in left.items():
        if not {"--help", "--rejected"} & set(words) and (name in words or f"jobs/{name}.py" in words):
            assert (tmp_path / file).is_file()


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job or a tool of the sharder in this process."""
    if words[1:3] == ["-m", "shards"]:
        assert tools.main(words[3:]) == 0
        return
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", words[1:])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    assert ended.value.code in (0, None)


def test_the_tools_commands_are_understood() -> None:
    """`python -m shards` in any document; a tool's flags are few, so that all are tried at once."""
    for document in DOCUMENTS:
        for command in commands(document):
            if command.words[:3] == ["python", "-m", "shards"]:
                tyro.cli(tools.Command, args=command.words[3:])


def test_the_readmes_python_runs(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/dataset").symlink_to(stand_ins / "drawn")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        exec(compile(block, "README.md", "exec"), names)
        assert "batch" in names
