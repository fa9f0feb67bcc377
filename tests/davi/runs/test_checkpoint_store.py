"""Checkpoints: which are kept, which are trusted, and what a failed write leaves."""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import davi.weights.checkpoint_manifest as manifest_module
from davi.runs.checkpoint_store import CheckpointStore
from davi.system.errors import InputError


def state(number: float) -> dict:
    return {"ema": {"w": torch.full((100,), number)}, "iteration": 0, "config": {}}


def saved(folder: Path, *scores: float | None, keep: int = 2) -> CheckpointStore:
    """A store after as many saves as there are scores, at iterations 1, 2, ..."""
    store = CheckpointStore(folder, keep)
    for iteration, score in enumerate(scores, start=1):
        store.save(iteration, state(iteration), score)
    return store


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pt"))


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    store = saved(tmp_path, 1.0, 9.0, None, 2.0, 3.0)
    kept = ["iteration_0000002.pt", "iteration_0000004.pt", "iteration_0000005.pt"]
    assert names(tmp_path) == kept
    assert store.best().name == "iteration_0000002.pt"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert sorted(manifest) == kept
    for name, entry in manifest.items():
        content = (tmp_path / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)


def test_without_scores_there_is_no_best(tmp_path: Path) -> None:
    assert saved(tmp_path, None, None, None).best() is None
    assert names(tmp_path) == ["iteration_0000002.pt", "iteration_0000003.pt"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1],
    "emptied": lambda data: b"",
    "one bit": lambda data: data[:900] + bytes([data[900] ^ 4]) + data[901:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside(damage: str, tmp_path: Path) -> None:
    store = saved(tmp_path, None, None)
    newest = tmp_path / "iteration_0000002.pt"
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    path, messages = store.find_newest()
    assert path.name == "iteration_0000001.pt"
    (message,) = messages
    assert "\n" not in message
    assert "iteration_0000002.pt.damaged" in message
    assert store.find_newest() == (path, [])  # said once


def test_with_nothing_sound_left_a_run_does_not_begin_anew(tmp_path: Path) -> None:
    store = saved(tmp_path, None)
    (tmp_path / "iteration_0000001.pt").write_bytes(b"")
    with pytest.raises(InputError, match="No sound checkpoint is left"):
        store.find_newest()


@pytest.mark.parametrize("manifest", [None, "{", "5", "[]", '{"iteration_0000001.pt": 5}'])
def test_a_file_nobody_vouches_for_is_not_used_and_not_touched(
    manifest: str | None, tmp_path: Path
) -> None:
    store = saved(tmp_path, None)
    (tmp_path / "manifest.json").unlink()
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match=r"is not in manifest\.json"):
        store.find_newest()
    assert names(tmp_path) == ["iteration_0000001.pt"]


def test_a_file_nobody_vouches_for_does_not_count_as_kept(tmp_path: Path) -> None:
    store = saved(tmp_path, None, None)
    (tmp_path / "iteration_0000009.pt").write_bytes(b"copied here by hand")
    store.save(3, state(3.0), None)
    assert names(tmp_path) == [f"iteration_000000{number}.pt" for number in (2, 3, 9)]
    path, (message,) = store.find_newest()
    assert path.name == "iteration_0000003.pt"
    assert "iteration_0000009.pt: is not in manifest.json" in message


def test_an_unreadable_file_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = saved(tmp_path, None, None)
    original = manifest_module.sha256_of

    def fail_for_the_newest(path: Path) -> str:
        if "0000002" in path.name:
            raise OSError(errno.EIO, "Input/output error")
        return original(path)

    monkeypatch.setattr(manifest_module, "sha256_of", fail_for_the_newest)
    path, (message,) = store.find_newest()
    assert path.name == "iteration_0000001.pt"
    assert "cannot be read (Input/output error)" in message


def test_an_empty_folder_has_no_newest(tmp_path: Path) -> None:
    (tmp_path / ".iteration_0000001.pt.7.tmp").touch()  # of a process that was killed
    assert CheckpointStore(tmp_path, 2).find_newest() == (None, [])
    assert not list(tmp_path.iterdir())


def test_a_save_without_space_names_path_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved(tmp_path, None)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match=r"iteration_0000002\.pt.*needs 1048976 bytes, 1000 are"):
        store.save(2, state(2.0), None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_file_and_its_name_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flushed: the state before it gets its name, and the folder after it."""
    events = []
    monkeypatch.setattr("davi.system.files.flush_to_disk", lambda path: events.append(path.name))
    monkeypatch.setattr(
        "os.replace",
        lambda source, target: (events.append([source.name, target.name]), source.rename(target)),
    )
    saved(tmp_path / "", None)
    renamed = next(event for event in events if event[1] == "iteration_0000001.pt")
    first = events.index(renamed[0])
    assert events[first : first + 3] == [renamed[0], renamed, tmp_path.name]
