"""Processes forked from one that has imported the library, where a fresh interpreter would import for seconds."""

from __future__ import annotations

import multiprocessing as mp
import os
import runpy
import signal
import sys
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.processes import CHECKOUT, end_with_the_module

_PRELOADED = [
    "hemodist.cluster.workers", "hemodist.training.loop", "hemodist.scoring.score_checkpoint", "hemodist.reports.page",
    "hemodist.loading.dali_pipeline", "matplotlib.figure", "scipy.stats", "sklearn.metrics", "torchvision",
]  # fmt: skip


def forking() -> ForkServerContext:
    """The context of the one server: it imports what its first user wants, so no test asks it for anything else."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


@dataclass(frozen=True)
class Forked:
    """A command in a process that leads a session of its own, with the methods of `Popen` that the tests use."""

    process: BaseProcess

    @property
    def pid(self) -> int:
        """Of the process, and of its session."""
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self.process.exitcode

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


def fork(arguments: list[object], cwd: Path, log: Path, tree: Path = CHECKOUT) -> Forked:
    """What `python arguments...` does, a script with its flags; the code is that of `tree`, a checkout."""
    log.write_bytes(b"")
    process = forking().Process(target=_run, args=([str(word) for word in arguments], cwd, log, tree, dict(os.environ)))
    process.start()
    forked = Forked(process)
    end_with_the_module(forked)
    return forked


def _run(words: list[str], cwd: Path, log: Path, tree: Path, env: dict[str, str]) -> None:
    os.setsid()
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if tree != CHECKOUT:  # the other tree's modules are imported anew
        for name in list(sys.modules):
            if name.partition(".")[0] in ("hemodist", "shards", "jobs"):
                del sys.modules[name]
        sys.path.insert(0, str(tree))
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    runpy.run_path(words[0], run_name="__main__")
