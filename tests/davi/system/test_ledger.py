"""What the record of an output folder remembers, refuses and puts up with."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from davi.system.errors import InputError
from davi.system.files import LOCK, atomic_path
from davi.system.ledger import Ledger, read_settings

SETTINGS = {"seed": 0}
SHA256, CHANGED = "ab" * 32, "cd" * 32
RESULT = "result.png"


@pytest.fixture(autouse=True)
def _result(tmp_path: Path) -> None:
    """A folder that was begun, with something that was made there."""
    with Ledger(tmp_path, SETTINGS):
        (tmp_path / RESULT).write_bytes(b"picture")


def finished(folder: Path, name: str, sha256: str = SHA256, **mask: str) -> bool:
    with Ledger(folder, SETTINGS) as ledger:
        return ledger.is_done(name, Path(name), [folder / RESULT], sha256=sha256, **mask)


def finish(folder: Path, name: str, **hashes: str) -> None:
    with Ledger(folder, SETTINGS) as ledger:
        ledger.record(name, Path(name), **{"sha256": SHA256, **hashes})


def line(name: str, sha256: str = SHA256) -> str:
    return json.dumps({"name": name, "source": name, "sha256": sha256}) + "\n"


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, RESULT))


def test_a_long_record_costs_little_more_than_its_names_and_hashes(tmp_path: Path) -> None:
    count = 5_000
    with open(tmp_path / "manifest.jsonl", "a") as stream:
        stream.writelines(line(f"photograph_{number:07d}") for number in range(count))
    tracemalloc.start()
    ledger = Ledger(tmp_path, SETTINGS)
    peak = tracemalloc.get_traced_memory()[1] / count
    tracemalloc.stop()
    assert peak < 400
    assert ledger.is_done(f"photograph_{count - 1:07d}", Path("moved"), [], sha256=SHA256)


def test_records_of_other_processes_count_and_the_newest_entry_wins(tmp_path: Path) -> None:
    finish(tmp_path, "a")
    (tmp_path / "manifest.1.jsonl").write_text(line("b") + line("a", CHANGED))
    (tmp_path / "manifest.12.jsonl").write_text(line("c") + line("d")[:-20])  # killed while writing
    (tmp_path / "manifest.3.jsonl").write_text(line("e")[:-20])
    assert finished(tmp_path, "a", CHANGED)
    assert not finished(tmp_path, "a")
    assert finished(tmp_path, "b")
    assert finished(tmp_path, "c")
    assert not finished(tmp_path, "d")
    assert visible(tmp_path) == ["manifest.jsonl"]
    finish(tmp_path, "a")  # it changed back
    assert finished(tmp_path, "a")


def test_a_file_without_all_its_results_is_not_done(tmp_path: Path) -> None:
    finish(tmp_path, "a")
    results = [tmp_path / "a.png", tmp_path / "mean/a.png"]
    results[1].parent.mkdir()
    with Ledger(tmp_path, SETTINGS) as ledger:
        for path in results:
            assert not ledger.is_done("a", Path("a"), results, sha256=SHA256)
            path.touch()  # as a full disk leaves it
            assert not ledger.is_done("a", Path("a"), results, sha256=SHA256)
            path.write_bytes(b"picture")
        assert ledger.is_done("a", Path("a"), results, sha256=SHA256)


def test_a_file_with_another_mask_is_not_done(tmp_path: Path) -> None:
    finish(tmp_path, "a", mask_sha256=SHA256)
    assert finished(tmp_path, "a", mask_sha256=SHA256)
    assert not finished(tmp_path, "a", mask_sha256=CHANGED)
    assert not finished(tmp_path, "a")


def test_content_tells_what_is_done_and_the_place_whose_results_they_are(tmp_path: Path) -> None:
    finish(tmp_path, "a")
    here, elsewhere, results = Path("a"), Path("elsewhere/a"), [tmp_path / RESULT]
    with Ledger(tmp_path, SETTINGS) as ledger:
        assert ledger.is_done("a", elsewhere, results, sha256=SHA256)
        assert not ledger.is_done("a", here.absolute(), results, sha256=CHANGED)  # it was changed
        with pytest.raises(InputError, match=r"elsewhere/a: .*another file of this name"):
            ledger.is_done("a", elsewhere, results, sha256=CHANGED)
        results[0].unlink()  # nothing is left to be lost
        assert not ledger.is_done("a", elsewhere, results, sha256=CHANGED)


def test_going_on_removes_what_a_killed_process_left_and_nothing_of_the_user(
    tmp_path: Path,
) -> None:
    own = [".notes.tmp", "nested/.notes.7.tmp", ".davi-notes.1.tmp", "manifest.7.jsonl"]
    (tmp_path / "nested").mkdir()
    for name in own:
        (tmp_path / name).write_text("mine")
    with atomic_path(tmp_path / "nested/a.png") as temporary:
        temporary.touch()
        with Ledger(tmp_path, SETTINGS):
            assert not temporary.exists()
        temporary.touch()
    assert (tmp_path / "nested/a.png").exists()
    assert [(tmp_path / name).read_text() for name in own] == ["mine"] * 4


def test_a_second_command_is_refused_and_takes_nothing_from_the_first(tmp_path: Path) -> None:
    with Ledger(tmp_path, SETTINGS), atomic_path(tmp_path / "a.png") as temporary:
        temporary.touch()
        with pytest.raises(InputError, match="another command is working there; wait"):
            Ledger(tmp_path, SETTINGS)
    assert (tmp_path / "a.png").exists()
    with Ledger(tmp_path, SETTINGS):
        pass


def test_a_refused_command_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other settings \(seed: 0 -> 1\)"):
        Ledger(tmp_path, {"seed": 1})
    with Ledger(tmp_path, SETTINGS):
        pass


def test_lines_that_are_no_record_are_passed_over(tmp_path: Path) -> None:
    first, bad = json.dumps(SETTINGS) + "\n", [b"5", b"[]", b"null", b"\xff", b"[" * 10**5]
    bad += [b'{"name": 5, "source": "a", "sha256": "x"}', b'{"name": "a", "source": "a"}']
    bad += [
        b'{"name": "a", "source": "a", "sha256": "%s"}' % (b"g" * 64),
        b"1" * 5000,
        first.encode(),
    ]
    lines = [first.encode(), *(each.strip() + b"\n" for each in bad), line("b").encode()]
    (tmp_path / "manifest.jsonl").write_bytes(b"".join(lines))
    assert finished(tmp_path, "b")
    assert not finished(tmp_path, "a")


@pytest.mark.parametrize(
    "first", [b"5", b"null", b"\xff\xfe", b"[" * 10**5, b"1" * 5000, b"\0" * 9]
)
def test_a_first_line_that_is_no_settings_is_refused(first: bytes, tmp_path: Path) -> None:
    content = first + b"\n" + line("a").encode()
    (tmp_path / "manifest.jsonl").write_bytes(content)
    assert read_settings(tmp_path) == {}
    with pytest.raises(InputError, match="its first line does not say what made this folder"):
        Ledger(tmp_path, SETTINGS)
    assert (tmp_path / "manifest.jsonl").read_bytes() == content


@pytest.mark.parametrize("rest", ["", '{"se'])
def test_a_record_that_a_full_disk_left_unfinished_is_begun_anew(rest: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text(rest)
    with pytest.raises(InputError, match="so that nothing of yours is overwritten"):
        Ledger(tmp_path, SETTINGS)
    (tmp_path / RESULT).unlink()
    with Ledger(tmp_path, SETTINGS):
        assert read_settings(tmp_path) == SETTINGS


def test_a_name_of_any_bytes_is_remembered(tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfc\xdfe")
    finish(tmp_path, name)
    assert finished(tmp_path, name)
