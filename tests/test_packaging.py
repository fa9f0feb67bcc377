"""What `pip install .` puts into a site-packages folder."""

import os
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
