"""Ray notices faults at once in these tests; real runs ask less often (see hemodist.cluster.session)."""

from __future__ import annotations

import os

os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
