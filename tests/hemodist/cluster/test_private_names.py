"""Nobody but `ray_internals` uses what another package keeps to itself, and workers run nothing that a job defines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
OWN = {"hemodist", "shards", "jobs"}
INTERNALS = CHECKOUT / "hemodist/cluster/ray_internals.py"

ALLOWED = {
    "os._exit": "documented: ends a process without its clean-up",
    **dict.fromkeys(
        (
            "torch._foreach_add_",
            "torch._foreach_copy_",
            "torch._foreach_lerp_",
            "torch._foreach_mul_",
            "torch._foreach_sub",
        ),
        "all tensors in one call, as torch's own optimizers do; the tests of EMA and of ranks call them",
    ),
    **dict.fromkeys(
        ("torch.cuda.memory._record_memory_history", "torch.cuda.memory._dump_snapshot"),
        "documented by torch (Understanding CUDA Memory Usage): the only way to a memory snapshot",
    ),
    "_value_": "documented by enum: what a member's __new__ sets",
}
ON_WORKERS = {"map_tasks", "run_ranks", "run_on_workers", "run_in_process", "remote"}
"""What takes a function to the workers, as its first argument."""


def trees(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for file in sorted((CHECKOUT / folder).rglob("*.py")):
            yield file, ast.parse(file.read_text())


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def foreign_private_names(tree: ast.Module) -> Iterator[str]:
    """Private names that a module imports from packages not ours, and private attributes of objects not its own."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names]
            modules |= {bound: name if bound != name.partition(".")[0] else bound for name, bound in names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [(f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names]
            modules |= {bound: name for name, bound in names}
        else:
            continue
        for name, _ in names:
            if name.partition(".")[0] not in OWN and any(map(is_private, name.split("."))):
                yield name
    # Another object of a class of the same module may be looked into.
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    stored = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)
              and isinstance(node.ctx, ast.Store)}  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not is_private(node.attr):
            continue
        root, _, rest = ast.unparse(node).partition(".")
        if root in ("self", "cls") and "." not in rest:
            continue
        if root in modules and modules[root].partition(".")[0] not in OWN:
            yield f"{modules[root]}.{rest}"
        elif node.attr not in defined and not {f"self.{node.attr}", node.attr} & stored:
            yield node.attr


def test_only_one_module_uses_what_other_packages_keep_private():
    found = {
        f"{file.relative_to(CHECKOUT)}: {name}"
        for file, tree in trees(*OWN)
        if file != INTERNALS
        for name in foreign_private_names(tree)
        if name not in ALLOWED
    }
    assert not found
    used = {name for _, tree in trees(*OWN) for name in foreign_private_names(tree)}
    assert used >= ALLOWED.keys(), "an exception that nobody needs any more"


def test_private_names_are_found_however_they_are_reached():
    code = """
import ray, torch as t, os.path
import ray._private.state
from ray.train.v2._internal import constants
from ray import _raylet as r
from hemodist.plan import _ours
t._C.x(), ray._private.worker.y, error._note, self._own, self.made._theirs, self.__class__
"""
    assert set(foreign_private_names(ast.parse(code))) == {
        "ray._private.state", "ray.train.v2._internal.constants", "ray._raylet", "torch._C", "ray._private", "_note",
        "_theirs",
    }  # fmt: skip


def test_workers_run_no_function_that_a_job_defines():
    for file, tree in trees("jobs"):
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            if called in ON_WORKERS:
                assert ast.unparse(node.args[0]) not in defined, f"{file.name}: a worker cannot import a job's function"
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert "ray" not in {name.partition(".")[0] for name in imported}, (
            f"{file.name}: jobs reach Ray through cluster"
        )
