"""Writing to disk: what a full one says, which names fit, and what JSON is taken."""

import contextlib
import errno
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from davi.data.images import save_array, save_image
from davi.system.errors import InputError
from davi.system.files import append_json, atomic_path, folder_lock, parse_json_object, write_text


@contextlib.contextmanager
def full_disk(limit: int = 20) -> Iterator[None]:
    """Within the block no file grows beyond a few bytes; errors name no file, as of a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_image(torch.zeros(3, 8, 8), path),
        lambda path: save_array(torch.zeros(100), path),
        lambda path: write_text(path, "text" * 100),
        lambda path: append_json(path, {"text": "text" * 100}),
    ],
)
def test_a_full_disk_is_named_and_nothing_half_written_is_left(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "file.png"
    path.touch()
    with full_disk(), pytest.raises(InputError, match=r"cannot be written to .* bytes are free"):
        write(path)
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.stat().st_size > 20


def test_an_array_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_array(torch.arange(3.0, dtype=torch.float64), tmp_path / "a.npy")
    array = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert array.dtype == np.float32
    assert array.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "\udcff.png"])
def test_every_name_that_the_file_system_takes_can_be_written(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_error_of_writing_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path / "a.png", "text")
    assert str(caught.value) == f"[Errno 21] Is a directory: '{tmp_path}/a.png'"
    with pytest.raises(OSError, match="vague"), atomic_path(tmp_path / "b"):
        raise OSError("vague")


@pytest.mark.parametrize("text", ["", "5", "[]", "null", "{", "[" * 10**5, "1" * 5000, "\0"])
def test_json_that_is_no_object_holds_nothing(text: str) -> None:
    assert parse_json_object(text) == {}
    assert parse_json_object('{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_where_there_are_no_locks_work_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "none")

    monkeypatch.setattr("fcntl.flock", refuse)
    with folder_lock(tmp_path, "busy"):
        pass
    assert "no locks there (none)" in capsys.readouterr().out
    monkeypatch.undo()
    with (
        folder_lock(tmp_path, "busy"),
        pytest.raises(InputError, match="busy"),
        folder_lock(tmp_path, "busy"),
    ):
        pass
