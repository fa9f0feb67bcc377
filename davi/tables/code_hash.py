"""A hash of the code that a result depends on, which comments and docstrings do not change."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("davi", "guided_diffusion")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_hash(files: Iterable[Path]) -> str:
    """Returns the SHA-256 of Python files and of all modules of this project that they import.

    Imports are followed to their end, also those inside functions. What lies outside of this
    project's packages is not looked at, and neither is where a file lies.

    Args:
        files: Python files, of this project or not; their order does not matter.
    """
    modules: dict[Path, tuple[str, str]] = {}
    pending = [path.resolve() for path in files]
    while pending:
        path = pending.pop()
        if path not in modules:
            digest, imported = _digest_and_imports(path.read_text(encoding="utf-8"))
            modules[path] = _module_name(path) or f"file {digest}", digest
            pending += imported
    return hashlib.sha256(repr(sorted(set(modules.values()))).encode()).hexdigest()


def _module_name(path: Path) -> str | None:
    """The name of a module of this project, None for another file."""
    if not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in PACKAGES:
        return None
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def _digest_and_imports(text: str) -> tuple[str, tuple[Path, ...]]:
    """The hash of a file's statements, and the files of this project that it imports."""
    tree = ast.parse(text)
    imported = tuple(sorted(set(_imported_files(tree))))
    _drop_docstrings(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _drop_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]


def _imported_files(tree: ast.Module) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            base = ROOT.joinpath(*name.split("."))
            candidates = (base.with_suffix(".py"), base / "__init__.py")
            if name.split(".")[0] in PACKAGES:
                yield from (path.resolve() for path in candidates if path.is_file())
