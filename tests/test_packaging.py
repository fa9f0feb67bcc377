"""What `pip install .` puts into a site-packages folder."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY

IMPORT_ALL = """
import importlib, pathlib, sys
site, *modules = sys.argv[1:]
sys.path.insert(0, site)
for name in modules:
    module = importlib.import_module(name)
    assert pathlib.Path(site) in pathlib.Path(module.__file__).parents, module.__file__
"""
RUN = """
import sys
site = sys.argv.pop(1)
sys.path.insert(0, site)
from davi.commands.program import main
import davi
assert davi.__file__.startswith(site), davi.__file__
main()
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
    extras = {
        "bm3d",
        "braceexpand",
        "deepinv",
        "diffusers",
        "gradio",
        "huggingface_hub",
        "onnx",
        "onnxscript",
        "wandb",
    }
    extras |= {"wandb", "webdataset"}
    assert imported - own - extras - set(sys.stdlib_module_names) <= declared


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages folder into which `pip install .` has put this project."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("davi", "guided_diffusion", "configs"):
        shutil.copytree(REPOSITORY / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    (source / "checkpoints").mkdir()  # one of them will do
    shutil.copy(REPOSITORY / "checkpoints/photos_denoising.safetensors", source / "checkpoints")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *options, str(source)], check=True)
    return site


def isolated(program: str, *words: object, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a program that sees neither this checkout nor PYTHONPATH."""
    return subprocess.run(
        [sys.executable, "-I", "-c", program, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_an_installation_holds_every_module(site: Path, tmp_path: Path) -> None:
    modules = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for package in ("davi", "guided_diffusion")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        if path.stem != "__main__"
    ]
    result = isolated(IMPORT_ALL, site, *modules, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_an_installation_restores_and_plans_with_what_it_ships(site: Path, tmp_path: Path) -> None:
    """Configs, solver files and networks are found without a checkout, by name and by path."""
    assert (site / "bin/davi").is_file()
    np.save(tmp_path / "y.npy", np.zeros((3, 64, 64), np.float32))
    sample = ("sample", "--checkpoint", "photos_denoising", "--input", "y.npy", "--output", "out")
    for words in (
        sample,
        ("train", "photos_inpainting", "--print-config"),
        ("degrade", "photos_denoising", "--num-images", "2", "--output", "measured"),
        ("table", "configs/tables/photos_all.yaml", "--print-config"),
        ("benchmark", "solvers", "--help"),
        ("info",),
    ):
        result = isolated(RUN, site, *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/y.png").is_file()
    assert str(site / "davi/shipped/checkpoints") in result.stdout
