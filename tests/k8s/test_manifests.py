"""The manifests are valid, keep to the rules of a careful cluster, and start commands that exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hemodist.cluster import prometheus
from hemodist.cluster.worker_slots import worker_resources
from hemodist.config.operation import ScalingConfig
from tests.k8s.conftest import K8S, OVERLAYS, ROOT
from tests.support.commands import parse

Documents = Callable[[str], list[dict[str, Any]]]

PLANTED = {
    "job": ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinish: true"),
    "cluster": ("rayVersion: 2.60.0", "rayversion: 2.60.0"),
    "pod": ("enableServiceLinks: false", "enableServiceLink: false"),
    "container": ("readOnlyRootFilesystem: true", "readonlyRootFilesystem: true"),
    "type": ("backoffLimit: 3", "backoffLimit: three"),
    "policy": ("namespaceSelector: {}", "namespaceSelectors: {}"),
    "budget": ("minAvailable: 1", "minAvailables: 1"),
}
"""Mistakes, each in one place of a sound manifest."""

Faults = Callable[[dict[str, str]], dict[str, list[str]]]


def test_every_document_is_valid_against_kubernetes_and_kuberay(built: Callable[[str], str], faults: Faults) -> None:
    assert faults({overlay: built(overlay) for overlay in OVERLAYS}) == {overlay: [] for overlay in OVERLAYS}


def test_an_unknown_or_misspelt_field_and_a_wrong_type_are_found(built: Callable[[str], str], faults: Faults) -> None:
    sound = built("subset")
    planted = {}
    for name, (right, wrong) in PLANTED.items():
        assert right in sound
        planted[name] = sound.replace(right, wrong, 1)
    found = faults(planted)
    for name, (_, wrong) in PLANTED.items():
        assert any(wrong.split(":")[0] in said for said in found[name]), (name, found[name])


def job_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The one RayJob."""
    (job,) = (each for each in documents if each["kind"] == "RayJob")
    return job


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template, with what it is."""
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "RayJob":
            yield "submitter", spec["submitterPodTemplate"]
            yield "head", spec["rayClusterSpec"]["headGroupSpec"]["template"]
            for group in spec["rayClusterSpec"].get("workerGroupSpecs", []):
                yield "worker", group["template"]
        elif "template" in spec:
            yield document["kind"], spec["template"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_command_is_one_that_the_job_accepts(
    overlay: str, documents: Documents, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job's own command line parses the entrypoint; a flag of another version, or a misspelt one, ends with 2."""
    program, script, *flags = shlex.split(job_of(documents(overlay))["spec"]["entrypoint"])
    assert program == "python"
    path = ROOT / Path(script).relative_to("/app")
    parse(path, flags, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        parse(path, [*flags, "--no-such-flag", "1"], monkeypatch)
    assert ended.value.code == 2
    assert "no-such-flag" in capsys.readouterr().err


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_confined(overlay: str, documents: Documents) -> None:
    for name, pod in pods(documents(overlay)):
        spec = pod["spec"]
        pins_memory = (overlay, name) == ("rdma", "worker")  # for the network card; only root has capabilities
        assert spec["securityContext"]["runAsNonRoot"] is not pins_memory, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["serviceAccountName"] == "hemodist", name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume], name
        assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "hemodist", name  # under the network policy
        for container in spec["containers"]:
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False, name
            assert confined["readOnlyRootFilesystem"] is True, name
            assert confined["capabilities"] == {"drop": ["ALL"]} | ({"add": ["IPC_LOCK"]} if pins_memory else {}), name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_rdma_opens_the_namespace_and_nccl_then_takes_no_tcp(overlay: str, documents: Documents) -> None:
    (namespace,) = (each for each in documents(overlay) if each["kind"] == "Namespace")
    (settings,) = (each for each in documents(overlay) if each["metadata"]["name"] == "hemodist-settings")
    level = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == ("privileged" if overlay == "rdma" else "restricted")
    assert (settings["data"].get("NCCL_NET"), settings["data"].get("NCCL_IB_HCA")) == (
        ("IB", "mlx5") if overlay == "rdma" else (None, None)
    )
    for name, pod in pods(documents(overlay)):
        asked = [key for key in pod["spec"]["containers"][0]["resources"].get("limits", {}) if key.startswith("rdma/")]
        assert bool(asked) == ((overlay, name) == ("rdma", "worker"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_come_by_reference_and_nothing_else_carries_one(overlay: str, documents: Documents) -> None:
    words = re.compile(r"key|secret|token|password", re.IGNORECASE)
    for _, pod in pods(documents(overlay)):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                if words.search(variable["name"]):
                    assert set(variable) == {"name", "valueFrom"}
                    assert variable["valueFrom"]["secretKeyRef"]["name"] == "hemodist-secrets"
    for document in documents(overlay):
        assert document["kind"] != "Secret"
        if document["kind"] == "ConfigMap":
            assert not [name for name in document["data"] if words.search(name)]
    assert not words.search(job_of(documents(overlay))["spec"]["entrypoint"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_end_are_cleaned_up_and_go_on(overlay: str, documents: Documents) -> None:
    spec = job_of(documents(overlay))["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
    if overlay != "debug":
        assert spec["backoffLimit"] > 0
        assert "s3://" in spec["entrypoint"]  # what is to be found by the next attempt
        assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_has_the_time_to_leave_and_the_memory_to_share(overlay: str, documents: Documents) -> None:
    for name, pod in pods(documents(overlay)):
        if name not in {"head", "worker"}:
            continue
        (container,) = pod["spec"]["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        (shared,) = (v for v in pod["spec"]["volumes"] if mounts.get(v["name"]) == "/dev/shm")
        assert shared["emptyDir"]["medium"] == "Memory"
        assert pod["metadata"]["annotations"]["prometheus.io/scrape"] == "true"
        if name == "worker":
            *_, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
            assert pod["spec"]["terminationGracePeriodSeconds"] > int(seconds) + 10


def test_the_full_overlay_asks_for_as_many_gpus_as_its_run_has_workers(documents: Documents) -> None:
    for overlay in ("subset", "full", "kueue", "gcs-fault-tolerance", "rdma"):
        spec = job_of(documents(overlay))["spec"]
        (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        flags = shlex.split(spec["entrypoint"])
        workers = int(flags[flags.index("--scaling.workers") + 1])
        gpus = int(limits["nvidia.com/gpu"])
        assert group["replicas"] * gpus == workers, overlay
        cpus = float(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])  # Ray's count of them
        assert worker_resources(ScalingConfig(), [{"CPU": cpus, "GPU": gpus}], gpu=True)["CPU"] >= 8, overlay


def test_the_overlay_of_ones_own_that_the_page_shows_can_be_built(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    page = (K8S / "README.md").read_text()
    own = page.split("# mine/kustomization.yaml\n")[1].split("\n\n")[0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(textwrap.dedent(own))
    shutil.copytree(K8S, tmp_path / "k8s")
    command = ["kubectl", "kustomize", str(tmp_path / "mine")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    job = job_of(list(yaml.safe_load_all(built.stdout)))
    assert job["spec"]["entrypoint"] == "python /app/jobs/train.py RECIPE ..."
    images = {container["image"] for _, pod in pods([job]) for container in pod["spec"]["containers"]}
    assert images == {"REGISTRY/hemodist:0.1.0"}


def test_every_overlay_is_on_the_page_and_every_command_of_the_page_is_a_job() -> None:
    page = (K8S / "README.md").read_text()
    for overlay in OVERLAYS:
        assert f"| `{overlay}` |" in page
    for job in re.findall(r"jobs/(\w+)\.py", page):
        assert (ROOT / "jobs" / f"{job}.py").is_file(), job


def test_no_head_may_be_evicted_however_many_runs_share_the_namespace(documents: Documents) -> None:
    (budget,) = (each for each in documents("full") if each["kind"] == "PodDisruptionBudget")
    labels = budget["spec"]["selector"]["matchLabels"].items()
    (head,) = (pod for name, pod in pods(documents("full")) if name == "head")
    assert labels <= head["metadata"]["labels"].items()
    assert budget["spec"]["minAvailable"] >= 1000  # evictions are allowed only beyond it, over all heads together


def test_names_are_asked_of_the_cluster_and_of_the_nodes_own_cache(documents: Documents) -> None:
    (policy,) = (each for each in documents("full") if each["kind"] == "NetworkPolicy")
    ports = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    asked = [peer for rule in policy["spec"]["egress"] if rule.get("ports") == ports for peer in rule["to"]]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in asked
    assert any("namespaceSelector" in peer for peer in asked)


def test_the_page_says_how_long_a_job_waits_for_its_nodes(documents: Documents) -> None:
    page = (K8S / "README.md").read_text()
    assert job_of(documents("subset"))["spec"]["preRunningDeadlineSeconds"] == 30 * 60
    assert job_of(documents("full"))["spec"]["preRunningDeadlineSeconds"] == 60 * 60
    assert "30 minutes; an hour in `full`" in page


def test_kueue_starts_the_job_and_nobody_else(documents: Documents) -> None:
    job = job_of(documents("kueue"))
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "hemodist"


def test_every_metric_of_the_dashboard_is_one_that_is_shown() -> None:
    dashboard = json.loads((K8S / "base" / "grafana.json").read_text())
    ours = {name for name, _ in [*prometheus.GAUGES.values(), *prometheus.EPOCH.values(), *prometheus.SHARDING.values(),
            prometheus.CHECKPOINT]}  # fmt: skip
    asked = set()
    for panel in dashboard["panels"]:
        assert panel["description"]
        for target in panel["targets"]:
            asked |= set(re.findall(r"ray_(hemodist_\w+)", target["expr"]))
    assert asked <= ours
    assert {"hemodist_images_per_s", "hemodist_data_wait_share", "hemodist_shard_rejected", "hemodist_corrupt_samples",
            "hemodist_checkpoint_time_s"} <= asked  # fmt: skip
