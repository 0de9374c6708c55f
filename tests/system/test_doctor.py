"""The doctor passes what works, names what does not with a remedy, and never takes the one for the other."""

from __future__ import annotations

import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
import torch

from hemodist.bench.ray_nodes import ray_nodes
from hemodist.dataset.digest import sha256
from hemodist.doctor import all_reduce, cluster_checks, decode, jpeg_engine, node_checks
from hemodist.doctor.cluster_checks import judge_clock
from hemodist.doctor.finding import Finding, agree
from tests.support.forks import fork
from tests.support.processes import CHECKOUT, in_session

KEY = "0123456789abcdef0123456789abcdef01234567"


def test_on_one_machine_without_ray_it_ends_and_says_what_is_missing(tmp_path: Path) -> None:
    flags = ["--storage", tmp_path / "runs", "--cache", tmp_path / "cache", "--megabytes", 2, "--ring-mebibytes", 1]
    process = fork([CHECKOUT / "jobs/doctor.py", *flags], tmp_path, tmp_path / "log")
    code = process.wait()
    said = (tmp_path / "log").read_text()
    assert in_session(process.pid) == []
    checks = ("versions", "GPUs", "decoding", "storage", "shared memory", "all-reduce", "W&B", "clock", "cache")
    lines = {check: [line for line in said.splitlines() if f" {check} " in line] for check in checks}
    for check in ("versions", "decoding", "storage"):
        assert " pass " in lines[check][0], said
    assert "not there" in lines["W&B"][0]
    if not torch.cuda.is_available():
        assert "not there" in lines["GPUs"][0], said
        assert " pass " in lines["all-reduce"][0], said
        assert "gloo, 2 ranks" in said
    assert (code == 0) == ("nothing to do" in said) == ("│ to do " not in said), said
    assert not list((tmp_path / "runs").iterdir())  # it leaves nothing


def test_missing_gpus_that_are_expected_are_something_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (finding,) = node_checks.gpus("n", wanted=8)
    assert finding.verdict == "to do"
    assert "nvidia.com/gpu" in finding.remedy
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    assert node_checks.gpus("n", wanted=None)[0].verdict == "not there"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    assert node_checks.gpus("n", wanted=None)[0].verdict == "to do"  # the system has one that PyTorch cannot use


def test_a_package_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = node_checks.versions("n")
    assert finding.verdict == "pass", finding
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.2.3" if name == "pydicom" else real(name))
    (finding,) = node_checks.versions("n")
    assert finding.verdict == "to do"
    assert "pydicom 1.2.3 instead of 3." in finding.found


def test_a_node_with_gpus_that_cannot_compile_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert node_checks.compiler("n") == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    if shutil.which("gcc"):
        assert node_checks.compiler("n")[0].verdict == "pass"
    without_headers = tmp_path / "gcc"
    without_headers.write_text("#!/bin/sh\necho stdio.h: No such file >&2; exit 1\n")
    without_headers.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = node_checks.compiler("n")
    assert finding.verdict == "not there"
    assert "stdio.h: No such file" in finding.found
    without_headers.unlink()
    (finding,) = node_checks.compiler("n")
    assert "no gcc, no clang" in finding.found
    assert "libc6-dev" in finding.remedy


def test_containers_default_shared_memory_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(64 * 2**20, 0, 64 * 2**20))
    (finding,) = node_checks.shared_memory("n")
    assert finding.verdict == "to do"
    assert "0.06 GiB" in finding.found


def test_storage_that_cannot_be_written_or_gives_back_other_bytes_is_something_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    (finding,) = node_checks.storage("n", str(tmp_path / "file"), 1)
    assert finding.verdict == "to do"
    assert "cannot write" in finding.found
    (finding,) = node_checks.storage("n", str(tmp_path / "runs"), 1)
    assert finding.verdict == "pass"
    monkeypatch.setattr(node_checks.Store, "read", lambda self, name: b"other")
    (finding,) = node_checks.storage("n", str(tmp_path / "runs"), 1)
    assert finding.verdict == "to do"
    assert "not what was written" in finding.remedy


def test_a_decoder_with_other_pixels_is_something_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = decode.grey_values
    monkeypatch.setattr(decode, "IMAGES", 200)
    monkeypatch.setattr(decode, "grey_values", lambda images: real(images) // 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (finding,) = node_checks.decoding("n")
    assert finding.verdict == "to do"
    assert "do not train here" in finding.remedy


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server on loopback that answers 404, and everything that it was sent."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.path} {self.headers}")
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", seen
        running.shutdown()
        thread.join()


def test_wandb_is_asked_only_with_a_key_which_is_not_sent(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = server
    monkeypatch.setenv("WANDB_BASE_URL", address)
    assert node_checks.wandb("n")[0].verdict == "not there"
    assert seen == []
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (finding,) = node_checks.wandb("n")
    assert finding.verdict == "pass", finding
    assert len(seen) == 1
    assert KEY not in seen[0] + finding.found
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    (finding,) = node_checks.wandb("n")
    assert finding.verdict == "to do"
    assert "offline" in finding.remedy


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(name: str) -> list[Finding]:
        raise RuntimeError("the driver is not what it was")

    monkeypatch.setattr(node_checks, "decoding", broken)
    wanted = node_checks.Wanted(str(tmp_path), str(tmp_path), 1, None)
    made = [node_checks.check_node(wanted, "n", name) for name in node_checks.checks_of(works=True)]
    found = {each.check: each for part in made for each in part}
    assert found["decoding"].verdict == "to do"
    assert "the driver is not what it was" in found["decoding"].found
    assert found["storage"].verdict == "pass"


def test_a_head_without_work_needs_no_gpus_and_no_cache_and_every_node_sees_the_drivers_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where the cache should lie")
    wanted = node_checks.Wanted(str(tmp_path / "runs"), str(tmp_path / "file"), 1, gpus=8)
    with ray_nodes(1):
        told: list[Finding] = []
        findings = cluster_checks.check_cluster(wanted, 1, told.append)
    assert told == findings  # one after another, as each check ends
    of_head = {each.check: each for each in findings if each.node == "127.0.0.1"}
    of_worker = {each.check: each for each in findings if each.node == "127.0.0.2"}
    assert not {"GPUs", "cache", "decoding"} & of_head.keys()
    assert of_head["work"].verdict == "not there"
    assert "GPUs, compiler, decoding, cache" in of_head["work"].remedy
    assert of_head["storage"].verdict == "pass"
    assert of_worker["cache"].verdict == "to do"
    if not torch.cuda.is_available():
        assert of_worker["GPUs"].verdict == "to do"
    (shared,) = (each for each in findings if each.check == "shared storage")
    assert shared.verdict == "pass"
    assert "all 2 nodes" in shared.found
    assert not list((tmp_path / "runs").iterdir())  # it leaves nothing


def test_a_folder_that_only_some_nodes_have_is_no_storage_for_runs(tmp_path: Path) -> None:
    uri = str(tmp_path / "runs")

    def digest(name: str, file: str) -> str:
        if name == "broken":
            raise TimeoutError
        return "" if name.startswith("alone") else sha256(Path(uri, file).read_bytes())

    finding = cluster_checks.shared_storage(uri, ["alone", "with", "broken"], digest)
    assert finding.verdict == "to do"
    assert finding.found.endswith("is not seen by alone, broken")
    assert "object store" in finding.remedy
    assert cluster_checks.shared_storage(uri, ["with"], digest).verdict == "pass"
    assert not list(Path(uri).iterdir())
    (tmp_path / "file").write_text("in the way")
    finding = cluster_checks.shared_storage(str(tmp_path / "file"), ["with"], digest)
    assert (finding.verdict, finding.node) == ("to do", "driver")


def test_nodes_of_different_versions_are_told_apart() -> None:
    same = [Finding("versions", name, "pass", "torch 2") for name in "ab"]
    assert agree(same, "versions", "why") == []
    (finding,) = agree([*same, Finding("versions", "c", "pass", "torch 3")], "versions", "why")
    assert finding.verdict == "to do"
    assert "a, b: torch 2; c: torch 3" in finding.found


@pytest.mark.parametrize(
    ("offset", "within", "verdict"), [(0.2, 0.1, "pass"), (-0.9, 0.0, "pass"), (3, 2.5, "pass"), (-3, 0.1, "to do")]
)
def test_a_clock_is_wrong_only_beyond_what_asking_took(offset: float, within: float, verdict: str) -> None:
    assert judge_clock("n", offset, within).verdict == verdict


def test_a_wrong_sum_is_something_to_do_on_whichever_rank_it_is() -> None:
    right = all_reduce.Ring("gloo", 2, 1e8, True)
    assert all_reduce.finding([right, right], "all", 1).verdict == "pass"
    assert "the sum is wrong" in all_reduce.finding([right, replace(right, exact=False)], "all", 1).found


@pytest.mark.parametrize(
    ("rate", "nodes", "nvlink", "way", "remedy"),
    [
        (320e9, 1, True, "P2P", ""),
        (18e9, 1, True, "SHM", "nvidia-fabricmanager"),  # NVLink is there, and not used
        (18e9, 1, False, "P2P", ""),  # as fast as PCIe is
        (2e9, 1, False, "SHM", "nvidia-smi topo -m"),
        (340e9, 2, True, "NET/IB", ""),
        (1.1e9, 2, True, "NET/Socket", "k8s/components/rdma"),  # 10 Gbit/s
        (6e9, 2, True, "NET/IB", "GPUDirect"),
    ],
)
def test_bandwidth_is_held_against_what_the_hardware_should_give(
    rate: float, nodes: int, nvlink: bool, way: str, remedy: str
) -> None:
    one = all_reduce.Ring("nccl", 8, rate, True, nvlink, (way,))
    found = all_reduce.finding([replace(one, bytes_per_s=500e9), one], "n", nodes)  # the slowest rank counts
    assert found.verdict == ("to do" if remedy else "pass")
    assert remedy in found.remedy
    assert f"over {way}: {rate / 1e9:.2f} GB/s" in found.found


def test_nccls_log_tells_which_way_it_takes() -> None:
    log = """
n:7:7 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read
n:7:7 [0] NCCL INFO Channel 00/0 : 9[1] -> 0[0] [receive] via NET/IB/3/GDRDMA
n:7:7 [0] NCCL INFO NET/Socket : Using [0]eth0
"""
    assert all_reduce.transports(log) == ("NET/IB", "P2P")


@pytest.mark.parametrize(
    ("library", "percent", "verdict", "said"),
    [
        (True, (0.0, 43.0, 61.0), "pass", "busy 35 %"),
        (True, (0.0, 0.0), "to do", "DALI_NVIMGCODEC_LOG_LEVEL"),
        (True, (), "not there", "no JPEG engine"),
        (False, (), "to do", "compute,utility,video"),
    ],
)
def test_the_jpeg_engine_is_proved_by_its_work(library: bool, percent: tuple, verdict: str, said: str) -> None:
    found = jpeg_engine.finding("n", "cuda:0", library=library, percent=percent)
    assert found.verdict == verdict
    assert said in found.found + found.remedy


def test_decoders_may_differ_as_the_gpu_tests_allow_and_no_further() -> None:
    made = decode.Decoded(5000, most=6, mean=0.75)
    assert made.right
    assert not replace(made, most=7).right
    assert not replace(made, mean=0.76).right
