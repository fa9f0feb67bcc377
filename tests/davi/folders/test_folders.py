"""What the work on a folder remembers, and how much memory that takes."""

import json
import tracemalloc
from pathlib import Path

import pytest

from davi.data.measurement_files import Measurements, find_measurements
from davi.system.files import atomic_path
from davi.system.ledger import Ledger

SETTINGS = {"seed": 0}
SHA256 = "ab" * 32


def finished(folder: Path, name: str, sha256: str = SHA256) -> bool:
    return Ledger(folder, SETTINGS).is_done(name, sha256, [])


def line(name: str, sha256: str = SHA256) -> str:
    return json.dumps({"name": name, "source": name, "sha256": sha256}) + "\n"


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


def test_a_long_record_costs_little_more_than_its_names_and_hashes(tmp_path: Path) -> None:
    count = 5_000
    Ledger(tmp_path, SETTINGS)
    with open(tmp_path / "manifest.jsonl", "a") as stream:
        stream.writelines(line(f"photograph_{number:07d}") for number in range(count))
    tracemalloc.start()
    ledger = Ledger(tmp_path, SETTINGS)
    peak = tracemalloc.get_traced_memory()[1] / count
    tracemalloc.stop()

    assert peak < 400
    assert ledger.is_done(f"photograph_{count - 1:07d}", SHA256, [])


def test_records_of_other_processes_count_and_the_newest_entry_wins(tmp_path: Path) -> None:
    Ledger(tmp_path, SETTINGS).record("a", Path("a"), SHA256)
    changed = "cd" * 32
    (tmp_path / "manifest.1.jsonl").write_text(line("b") + line("a", changed))
    (tmp_path / "manifest.12.jsonl").write_text(line("c") + line("d")[:-20])  # killed while writing
    assert finished(tmp_path, "a", changed)
    assert not finished(tmp_path, "a")
    assert finished(tmp_path, "b")
    assert finished(tmp_path, "c")
    assert not finished(tmp_path, "d")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]
    Ledger(tmp_path, SETTINGS).record("a", Path("a"), SHA256)  # it changed back
    assert finished(tmp_path, "a")


def test_a_file_without_its_result_is_not_done(tmp_path: Path) -> None:
    Ledger(tmp_path, SETTINGS).record("a", Path("a"), SHA256)
    ledger = Ledger(tmp_path, SETTINGS)
    assert not ledger.is_done("a", SHA256, [tmp_path / "a.png"])
    (tmp_path / "a.png").touch()
    assert ledger.is_done("a", SHA256, [tmp_path / "a.png"])


def test_going_on_removes_what_a_killed_process_left_half_written(tmp_path: Path) -> None:
    Ledger(tmp_path, SETTINGS)
    (tmp_path / "nested").mkdir()
    with atomic_path(tmp_path / "nested/a.png") as temporary:
        temporary.touch()
        Ledger(tmp_path, SETTINGS)
        assert not temporary.exists()
        temporary.touch()
    assert (tmp_path / "nested/a.png").exists()
