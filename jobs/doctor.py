"""What to run first on a new machine or cluster: `python jobs/doctor.py [--storage s3://...]`.

Looks at versions, GPUs, decoding and the JPEG engine, storage, shared memory, clocks, bandwidth between GPUs within
nodes and between them, and W&B: of this machine,
or, where RAY_ADDRESS names a cluster (as inside `ray job submit`), of every node of it, and then also whether all nodes
share the storage. Exit code 0: nothing to do. 1: see the last column. Writes nothing but files that it deletes again.
"""

from __future__ import annotations

import os
import platform

import tyro

from hemodist.job import filled, run_job


def main(
    storage: str = "runs",
    cache: str = "~/.cache/hemodist",
    gpus: int | None = None,
    megabytes: int = 64,
    ring_mebibytes: int = 64,
) -> int:
    """Check this machine, or every node of the cluster.

    Args:
        storage: path or URI where data sets and runs lie.
        cache: node-local folder of the shard cache, as for --data.cache; of nodes with work.
        gpus: GPUs that every node with work must have; fewer are then something to do.
        megabytes: size of the file that measures the storage.
        ring_mebibytes: size of the tensor that measures the bandwidth between workers; 64 is about a large gradient.
            GPUs also sum one 8 times as large.
    """
    from hemodist.cluster.session import cluster, no_process_left_behind
    from hemodist.doctor import all_reduce
    from hemodist.doctor.finding import Finding, line, table
    from hemodist.doctor.node_checks import Wanted, check_node, checks_of
    from hemodist.reports.terminal import console

    wanted = Wanted(storage, cache, megabytes, gpus)
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        console.print(line(finding))

    if os.environ.get("RAY_ADDRESS"):
        from hemodist.doctor.cluster_checks import check_cluster

        with cluster():
            findings = check_cluster(wanted, ring_mebibytes, tell)
    else:
        with no_process_left_behind():
            node = platform.node()
            for name in checks_of(works=True):
                for finding in check_node(wanted, node, name):
                    findings.append(finding)
                    tell(finding)
            findings.append(all_reduce.on_this_machine(ring_mebibytes))
            tell(findings[-1])
        findings.append(Finding("clock", "all", "not there", "one machine", "compared between nodes, inside a cluster"))
    console.print(table(findings))
    left = [finding for finding in findings if finding.verdict == "to do"]
    console.print(f"{len(left)} of {len(findings)} findings want something done" if left else "nothing to do")
    return 1 if left else 0


if __name__ == "__main__":
    run_job(lambda: tyro.cli(main, description=filled(__doc__)))
