"""The scripts of docs/gallery.md: short, run to their end, and they print what the page shows."""

import importlib.util
import re
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


def test_the_page_shows_every_script() -> None:
    scripts = {path.stem for path in (REPOSITORY / "examples").glob("*.py")} - OWN
    assert set(SHOWN) == scripts
    for name in scripts:
        assert len((REPOSITORY / f"examples/{name}.py").read_text().splitlines()) < MAX_LINES


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
        assert NUMBER.sub("#", done.stdout) == NUMBER.sub("#", SHOWN[name])
        found, expected = (
            [float(number) for number in re.findall(r"(\d+\.\d+) dB", text)]
            for text in (done.stdout, SHOWN[name])
        )
        assert found == pytest.approx(expected, abs=TOLERANCE)
    pictures = sorted((tmp_path / "out").rglob("*.png"))
    assert pictures
    for path in pictures:
        picture = load_image(path)
        assert picture.amax() > picture.amin(), path  # it shows something
