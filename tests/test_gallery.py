"""The scripts of docs/gallery.md: short, run to their end, and they print what the page shows."""

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from davi.data.images import load_image
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/gallery.md").read_text(encoding="utf-8")
# What each script shows, as the page has it.
SHOWN = dict(re.findall(r"\]\(\.\./examples/(\w+)\.py\).*?^```text\n(.*?)^```", PAGE, re.M | re.S))
SHORTER = {"diffusers_prior": ["2"], "train_on_folder": ["1"]}  # trainings, of so many steps here
NEEDS = {"deepinv_operator": "deepinv", "diffusers_prior": "diffusers"}
NUMBER = re.compile(r"\d+\.\d+ dB|\d+\.\d+")
MAX_LINES, TOLERANCE = 40, 0.1  # the latter in dB, between processors
OWN = {"motion_blur", "my_solver", "soft_saturation"}  # of docs/extending.md
NOTEBOOKS = runpy.run_path(str(REPOSITORY / "docs/notebooks.py"))


def test_the_page_shows_every_script() -> None:
    scripts = {path.stem for path in (REPOSITORY / "examples").glob("*.py")} - OWN
    assert set(SHOWN) == scripts
    for name in scripts:
        assert len((REPOSITORY / f"examples/{name}.py").read_text().splitlines()) < MAX_LINES


def require_as_shown(printed: str, name: str) -> None:
    """Compares what was printed with the page: decibels as numbers, all else as text."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", SHOWN[name])
    found, expected = (
        [float(number) for number in re.findall(r"(\d+\.\d+) dB", text)]
        for text in (printed, SHOWN[name])
    )
    assert found == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_the_script_does_what_the_page_says(name: str, tmp_path: Path) -> None:
    needed = NEEDS.get(name, "davi")
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs pip install 'davi[{needed}]'")
    command = [sys.executable, REPOSITORY / f"examples/{name}.py", tmp_path / "out"]
    more = SHORTER.get(name, [])
    done = subprocess.run([*command, *more], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if not more:
        require_as_shown(done.stdout, name)
    pictures = sorted((tmp_path / "out").rglob("*.png"))
    assert pictures
    for path in pictures:
        picture = load_image(path)
        assert picture.amax() > picture.amin(), path  # it shows something


def test_notebooks_are_those_of_the_first_scripts() -> None:
    assert NOTEBOOKS["NAMES"] == tuple(SHOWN)[:3]
    paths = {path.stem: path for path in NOTEBOOKS["FOLDER"].iterdir()}
    assert set(paths) == set(NOTEBOOKS["NAMES"])
    for name, path in paths.items():
        assert path.read_text(encoding="utf-8") == NOTEBOOKS["notebook"](name), (
            "run docs/notebooks.py"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS["NAMES"])
def test_a_notebook_prints_and_draws_what_the_page_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="needs pip install nbclient ipykernel")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(NOTEBOOKS["FOLDER"] / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.text for output in outputs if output.get("name") == "stdout"]
    require_as_shown("".join(texts), name)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == len(list((tmp_path / "runs/gallery" / name).glob("*.png"))) > 0
