"""One small Ray for all tests of a file, since each start costs seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hemodist.cluster import ray_internals
from hemodist.cluster.session import no_process_left_behind

import ray  # isort: skip - after what sets its variables
from ray.cluster_utils import Cluster  # isort: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node with one CPU; the last test that has it may take the node away."""
    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}
    with no_process_left_behind(), ray_internals.on_loopback():
        started = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        try:
            ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
            yield started
        finally:
            ray.shutdown()
            started.shutdown()
