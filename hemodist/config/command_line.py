"""From a command line to a configuration: the recipe first, then its fields as flags.

tyro makes its parser for the one recipe that was picked: for all of them it takes seconds.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from hemodist.config.fields import Field, Often, fields_of
from hemodist.config.recipes import RECIPES
from hemodist.config.run import Run
from hemodist.errors import ConfigError
from hemodist.job import WIDEST, filled

C = TypeVar("C")

_HELP = {"-h", "--help"}


@dataclasses.dataclass(frozen=True)
class Read(Generic[C]):
    """What a command line says.

    Attributes:
        config: the recipe's configuration with the fields that flags have changed.
        recipe: as the recipe has it.
        given: names of the flags that stand there, such as `optim.lr`, be it with the recipe's own value.
    """

    config: C
    recipe: C
    given: frozenset[str]


def read_recipe(about: str | None, example: str, made_of: Callable[[Run], C]) -> Read[C]:
    """Read `RECIPE [--field value ...]`, the program's command line.

    Args:
        about: what the program does.
        example: flags, for the help of a recipe.
        made_of: makes the whole configuration of the recipe's `Run`.

    Raises:
        ConfigError: there is no such recipe.
        SystemExit: with code 0 after help, 2 where a flag is not understood.
    """
    program, arguments = sys.argv[0], sys.argv[1:]
    recipes = {recipe.__name__: recipe for recipe in RECIPES}
    name = arguments[0] if arguments else "--"
    if name.startswith("-") and _HELP & set(arguments):
        print(_overview(program, about))
        sys.exit(0)
    if name.startswith("--tyro-"):  # a completion script for the shell, with the flags of all recipes
        forms = {name: ("", _form(made_of(recipe()))()) for name, recipe in recipes.items()}
        tyro.extras.overridable_config_cli(forms)
    if name not in recipes:
        said = "the recipe must come first" if name.startswith("-") else f"there is no recipe {name}"
        near = difflib.get_close_matches(name, recipes, 1)
        guess = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(f"{said}{guess} The recipes are {', '.join(recipes)}.")
    text = f"Example: python {program} {name} --data.dataset rsna-256 {example}\n\n{inspect.getdoc(recipes[name])}"
    recipe = made_of(recipes[name]())
    given = {word.removeprefix("--").partition("=")[0].replace("-", "_") for word in arguments if word[:2] == "--"}
    return Read(read_flags(recipe, text, f"{program} {name}", arguments[1:]), recipe, frozenset(given))


def read_flags(
    config: C, about: str | None, program: str | None = None, arguments: Sequence[str] | None = None
) -> C:  # fmt: skip
    """A configuration with the fields that a command line changes.

    Args:
        config: a dataclass, with or without dataclasses in it, each field with a docstring under it.
        about: what stands at the head of the help.
        program: as it was called; the program's own name where None.
        arguments: of the command line; the program's own where None.

    Raises:
        SystemExit: with code 0 after help, 2 where a flag is not understood.
    """
    flags = tyro.cli(_form(config), prog=program, args=arguments, description=filled(about))
    given: dict[str, Any] = {}
    for name, value in vars(flags).items():
        given |= vars(value) if dataclasses.is_dataclass(value) else {name: value}
    for field in fields_of(config):
        if field.word and given[_identifier(field.name)] == field.word.text:
            given[_identifier(field.name)] = field.word.value
    changed: C = _changed(config, given)
    return changed


def _overview(program: str, about: str | None) -> str:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    rows = [
        textwrap.fill(
            (recipe.__doc__ or "").partition("\n")[0],
            width,
            initial_indent=f"  {recipe.__name__:20}",
            subsequent_indent=" " * 22,
        )
        for recipe in RECIPES
    ]
    usage = f"usage: {program} [-h] RECIPE --data.dataset DATASET [--FIELD VALUE ...]"
    more = f"`python {program} RECIPE --help` lists the fields of a recipe."
    return "\n".join([usage, "", filled(about), "", "recipes:", *rows, "", filled(more)])


def _form(config: Any) -> Any:
    """A dataclass for tyro: fields that people change often, then boxes of the others, a box a part of `config`."""
    often, advanced = list[Field](), dict[str, list[Field]]()
    for field in fields_of(config):
        (often if _often(field) else advanced.setdefault(_flag(field).rpartition(".")[0], [])).append(field)
    often.sort(key=lambda field: not _required(field))
    boxes = []
    for part, fields in advanced.items():
        box: Any = dataclasses.make_dataclass(f"box_{part}", map(_entry, fields))
        box.__doc__ = inspect.getdoc(fields[0].owner) if part else None
        title = tyro.conf.arg(name=f"advanced: {part}" if part else "advanced")
        kind: Any = Annotated[box, title, tyro.conf.OmitArgPrefixes]
        boxes.append((box.__name__, kind, dataclasses.field(default_factory=box)))
    return dataclasses.make_dataclass("Flags", [*map(_entry, often), *boxes])


def _entry(field: Field) -> tuple[str, Any, Any]:
    """A field for `make_dataclass`."""
    hint = "(required)" if _required(field) else None
    text = _texts(field.owner).get(field.name.rpartition(".")[2])
    of: Any = field.type if field.word is None else field.type | Literal[field.word.text]
    kind: Any = Annotated[of, tyro.conf.arg(name=_flag(field), help=text, help_behavior_hint=hint)]
    return _identifier(field.name), kind, dataclasses.field(default=field.value)


def _often(field: Field) -> bool:
    return any(isinstance(note, Often) for note in field.notes)


def _required(field: Field) -> bool:
    return not field.value and any(isinstance(note, Often) and note.required for note in field.notes)


def _flag(field: Field) -> str:
    return field.name.removeprefix("run.")  # of a range test, whose flags are those of the run


def _identifier(name: str) -> str:
    return name.replace(".", "__")


def _changed(config: Any, given: dict[str, Any], prefix: str = "") -> Any:
    values = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        inner = dataclasses.is_dataclass(value)
        values[field.name] = _changed(value, given, f"{name}.") if inner else given[_identifier(name)]
    return dataclasses.replace(config, **values)


def _texts(owner: type) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    (made,) = [node for node in _module(owner.__module__).body if getattr(node, "name", None) == owner.__name__]
    assert isinstance(made, ast.ClassDef)
    return {
        node.target.id: inspect.cleandoc(str(below.value.value))
        for node, below in itertools.pairwise(made.body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


@functools.cache
def _module(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[name]))
