"""Classes of Python files that a user names: a method or an operator of their own."""

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from davi.system.errors import InputError

Base = TypeVar("Base")
# Of a section and a path. Whoever makes a weight file chooses what its header says.
NOT_RUN = (
    "its {} is the code of {}; code that only a weight file names is not run: look at it and name "
    "it yourself"
)


def only_class(module: ModuleType, base: type[Base], what: str) -> type[Base]:
    """Returns the one class that a module defines below `base`.

    Args:
        module: see `run_file`.
        base: what the class must derive from.
        what: begins the message.

    Raises:
        InputError: there is none, or more than one.
    """
    found = public_classes(module, base)
    if len(found) != 1:
        names = f" ({', '.join(each.__name__ for each in found)})" if found else ""
        raise InputError(
            f"{what}: one public subclass of {base.__name__} needed, {len(found)} found{names}"
        )
    return found[0]


def public_classes(module: ModuleType, base: type[Base]) -> list[type[Base]]:
    """Returns the classes a module defines below `base`: not imported, private or abstract."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
        and not value.__name__.startswith("_")
    ]


def run_file(path: Path, what: str) -> ModuleType:
    """Runs a Python file and returns it as a module.

    Only files that the user has named may come here, never one that a weight file names.

    Args:
        path: the file.
        what: begins the message, "solver" or "operator".

    Raises:
        InputError: no such file, or it fails; says in which line.
    """
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"{what} {path}: no such file; the path of a Python file is needed")
    spec = importlib.util.spec_from_file_location(f"{what}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks annotations up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
        line = lines[-1] if lines else getattr(error, "lineno", "?")  # a SyntaxError has no frame
        kind = type(error).__name__
        raise InputError(f"{what} {path}, line {line}: {kind}: {error}") from error
    return module
