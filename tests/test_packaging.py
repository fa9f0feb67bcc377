"""What `pip install .` puts into a site-packages folder."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PROGRAM = """
import pathlib, pkgutil, importlib
import davi, davi.operators, guided_diffusion
for package in (davi, davi.operators, guided_diffusion):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    print(pathlib.Path(package.__file__).parent)
print(callable(davi.load))
"""


IMPORT_NAMES = {  # of requirements that are imported under another name
    "pyyaml": "yaml",
    "pillow": "PIL",
    "pytorch-fid": "pytorch_fid",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}


def test_every_imported_package_is_a_requirement() -> None:
    setup = ast.parse((REPOSITORY / "setup.py").read_text())
    call = next(
        node
        for node in ast.walk(setup)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    requirements = {re.split("[<>=]", item.value)[0] for item in keywords["install_requires"].elts}
    declared = {IMPORT_NAMES.get(name, name) for name in requirements}
    imported = set()
    for package in ("davi", "guided_diffusion", "scripts"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(node.module.split(".")[0])
    own = {"davi", "guided_diffusion"}
    extras = {"wandb", "webdataset", "braceexpand"}
    assert imported - own - extras - set(sys.stdlib_module_names) <= declared


@pytest.mark.slow
def test_an_installation_outside_the_checkout_imports_everything(tmp_path: Path) -> None:
    site, source = tmp_path / "site", tmp_path / "source"
    source.mkdir()
    for name in ("davi", "guided_diffusion"):
        shutil.copytree(REPOSITORY / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--disable-pip-version-check",
            "--target",
            site,
            source,
        ],
        check=True,
    )
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    folders = [site / "davi", site / "davi/operators", site / "guided_diffusion"]
    assert result.stdout.split() == [*map(str, folders), "True"]
