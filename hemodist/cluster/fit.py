"""Whether workers fit into a cluster, as it is or as it may become; checked before any worker starts."""

from __future__ import annotations

import math

from hemodist.cluster.session import ClusterInfo
from hemodist.config.operation import ScalingConfig
from hemodist.errors import ConfigError


def check_slots(scaling: ScalingConfig, info: ClusterInfo) -> bool:
    """Check that a cluster has slots for the workers, or may come to have them; returns whether they use GPUs.

    Raises:
        ConfigError: they would wait for ever.
    """
    check_cpus(scaling, info.cpus, info.cpus_to_come)
    return uses_gpu(scaling, info.gpus, info.gpus_to_come)


def waiting_for_nodes(scaling: ScalingConfig, info: ClusterInfo, *, gpu: bool) -> str:
    """What to tell the user while the cluster is still too small; empty where it is large enough."""
    cpus, gpus = scaling.fewest * scaling.fewest_cpus, scaling.fewest if gpu else 0
    if cpus <= info.cpus and gpus <= info.gpus:
        return ""
    needed = f"{cpus} CPUs" + (f" and {gpus} GPUs" if gpu else "")
    return f"The run needs {needed}, the cluster has {info.cpus} and {info.gpus} so far; waiting until a node joins."


def uses_gpu(scaling: ScalingConfig, gpus: int, to_come: float = 0) -> bool:
    """Whether the ranks compute on GPUs.

    Args:
        scaling: `device`, `workers` and `min_workers`.
        gpus: how many GPUs there are.
        to_come: how many more may join; infinite where nobody knows.

    Raises:
        ConfigError: GPUs are asked for that are not there, or nobody can know whether there will be some.
    """
    if scaling.device == "cpu":
        return False
    if scaling.device == "auto" and not gpus:
        if not to_come:
            return False
        if math.isinf(to_come):  # a guess would train on the head's CPUs for days, or ask for GPUs that never come
            raise ConfigError(
                "scaling.device auto: the cluster has no GPU yet, and does not say whether nodes with GPUs may join; "
                "use --scaling.device cuda or --scaling.device cpu"
            )
    most = gpus + to_come
    if most < scaling.fewest:
        remedy = f"use --scaling.workers {most}, --scaling.device cpu, or a larger cluster"
        if not most:
            remedy = "use --scaling.device cpu, or see what `nvidia-smi` and jobs/doctor.py say of the driver"
        raise ConfigError(f"{_asked(scaling)} need {scaling.fewest} GPUs, one each, and {_there(most, gpus)}; {remedy}")
    return True


def check_cpus(scaling: ScalingConfig, cpus: int, to_come: float = 0) -> None:
    """Check that there are CPUs for all workers, or with `min_workers` for as many as that.

    Args:
        scaling: `workers`, `min_workers` and `cpus_per_worker`.
        cpus: how many CPUs there are.
        to_come: how many more may join; infinite where nobody knows.

    Raises:
        ConfigError: they would wait for CPUs for ever.
    """
    needed = scaling.fewest * scaling.fewest_cpus
    if needed > cpus + to_come:
        raise ConfigError(
            f"{_asked(scaling)} x scaling.cpus_per_worker {scaling.fewest_cpus} = {needed} CPUs, "
            f"and {_there(cpus + to_come, cpus)}; use fewer workers, fewer CPUs each, or a larger cluster"
        )


def _there(most: float, now: int) -> str:
    return f"there are {most}" if most == now else f"the cluster grows to {most}"


def _asked(scaling: ScalingConfig) -> str:
    if scaling.fewest < scaling.workers:
        return f"scaling.min_workers {scaling.fewest}"
    return f"scaling.workers {scaling.workers}"
