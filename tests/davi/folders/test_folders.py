"""Which measurements a folder holds, and how much memory that takes."""

import tracemalloc
from pathlib import Path

import pytest

from davi.config.problem import GaussianNoiseConfig
from davi.data.measurement_files import Measurements, find_measurements
from davi.folders.degrading import recorded_noise


def test_folders_begun_before_noise_could_be_clipped_go_on() -> None:
    noise = GaussianNoiseConfig(name="gaussian", sigma=0.1)
    assert recorded_noise(noise) == {"name": "gaussian", "sigma": 0.1}
    assert recorded_noise(noise.model_copy(update={"clip": True}))["clip"] is True


def test_measurements_are_named_by_their_path_and_previews_are_passed_over(tmp_path: Path) -> None:
    for file in ("b/a.npy", "b/a.o.png", "b/a.png", "b-c.PNG", "d.bmp", "d.png", "e.npy", "e.NPY"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    found = find_measurements(tmp_path)
    assert found.suffixes == {"b/a": ".npy", "b/a.o": ".png", "b-c": ".PNG"}
    assert found.path("b/a.o") == tmp_path / "b/a.o.png"
    assert sorted(path.name for path, _ in found.refused) == ["d.bmp", "d.png", "e.NPY", "e.npy"]
    assert "(d.bmp, d.png)" in dict(found.refused)[tmp_path / "d.png"]
    single = find_measurements(tmp_path / "d.bmp")
    assert single == Measurements(tmp_path, {"d": ".bmp"}, [])


def test_a_large_folder_costs_little_more_than_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 5_000
    (tmp_path / "in").mkdir()
    for number in range(count):
        (tmp_path / f"in/photograph_{number:07d}.png").touch()
    looks, stat = [], Path.stat
    tracemalloc.start()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", lambda *args, **kw: (looks.append(1), stat(*args, **kw))[1])
        found = find_measurements(tmp_path / "in")
    kept, peak = (size / count for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert len(looks) < 10  # at the folder; to look at each file takes hours on a remote disk
    assert len(found.suffixes) == count

    assert kept < 150  # bytes per name; a Path alone takes more
    assert peak < 400
