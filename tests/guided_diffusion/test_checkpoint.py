"""Weight files: what is read, what is refused, and how that is said."""

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from guided_diffusion.checkpoint import load_adm, read_pt, require_intact
from guided_diffusion.errors import CheckpointError
from guided_diffusion.presets import PHOTOS_64, create_unet

TINY = replace(PHOTOS_64, channel_mult=(1, 1), attention_resolutions=())


class Exploit:
    """Pickles to a call that would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


@pytest.fixture
def state() -> OrderedDict[str, torch.Tensor]:
    """Weights of the tiny architecture."""
    return create_unet(TINY).state_dict()


@pytest.mark.parametrize("legacy_format", [False, True])
def test_loads_a_pt_file_bit_for_bit(tmp_path: Path, state: dict, legacy_format: bool) -> None:
    path = tmp_path / "prior.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy_format)
    loaded = load_adm(path, TINY)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())
    assert not loaded.training


def test_loads_half_precision_safetensors_as_float32(tmp_path: Path, state: dict) -> None:
    path = tmp_path / "prior.safetensors"
    save_file({key: value.half() for key, value in state.items()}, path)
    loaded = load_adm(path, TINY)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_names_the_missing_keys(tmp_path: Path, state: dict) -> None:
    del state["out.2.bias"]
    torch.save(state, tmp_path / "prior.pt")
    with pytest.raises(CheckpointError, match=r"1 keys are missing \(out\.2\.bias\)"):
        load_adm(tmp_path / "prior.pt", TINY)


def test_names_the_superfluous_keys_and_changed_shapes(tmp_path: Path, state: dict) -> None:
    state["extra"] = torch.zeros(1)
    state["out.2.bias"] = torch.zeros(6)
    torch.save(state, tmp_path / "prior.pt")
    with pytest.raises(CheckpointError, match=r"1 keys do not belong \(extra\)") as caught:
        load_adm(tmp_path / "prior.pt", TINY)
    assert "out.2.bias: (6,) instead of (3,)" in str(caught.value)


def test_recognises_the_file_of_another_preset(tmp_path: Path) -> None:
    torch.save(create_unet(PHOTOS_64).state_dict(), tmp_path / "prior.pt")
    with pytest.raises(CheckpointError, match="use preset 'photos_64'"):
        load_adm(tmp_path / "prior.pt", TINY)


@pytest.mark.parametrize("container", ["torch", "pickle"])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path, container: str) -> None:
    path, trace = tmp_path / "prior.pt", tmp_path / "trace"
    if container == "torch":
        torch.save({"weight": Exploit(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Exploit(trace)))
    with pytest.raises(CheckpointError, match="would run code"):
        load_adm(path, "ffhq_256")
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_damaged_files_are_named(tmp_path: Path, state: dict, suffix: str, damage: str) -> None:
    path = tmp_path / f"prior{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    damaged = {"empty": b"", "text": b"not a model " * 9, "truncated": content[: len(content) // 2]}
    path.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match=rf"prior\{suffix}: .*damaged"):
        load_adm(path, TINY)


def test_a_training_checkpoint_is_not_taken_for_a_prior(tmp_path: Path, state: dict) -> None:
    torch.save({"model": state, "step": 3}, tmp_path / "prior.pt")
    with pytest.raises(CheckpointError, match="no flat state dict"):
        load_adm(tmp_path / "prior.pt", TINY)
    torch.save({3: torch.zeros(1)}, tmp_path / "numbers.pt")
    with pytest.raises(CheckpointError, match="no flat state dict"):
        load_adm(tmp_path / "numbers.pt", TINY)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pt: no such weight file"):
        load_adm(tmp_path / "absent.pt", TINY)


def packed(path: Path) -> Path:
    """The same PyTorch file, compressed."""
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    return path.with_suffix(".zip").rename(path)


def test_a_file_that_would_unpack_to_more_than_itself_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "bomb.pt")
    for mapped in (False, True):
        with pytest.raises(CheckpointError, match=r"bomb\.pt: is to be unpacked to 40\d+ bytes"):
            read_pt(packed(tmp_path / "bomb.pt"), mapped)


@pytest.mark.parametrize("size", [1 << 40, 1 << 63, (1 << 64) - 1])
def test_a_size_beyond_all_files_is_one_line(size: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
        archive.getinfo("archive/data.pkl").file_size = size
    with pytest.raises(CheckpointError, match=r"a\.pt: ") as caught:
        read_pt(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_found_by_the_checksums_of_the_file(tmp_path: Path, state: dict) -> None:
    path = tmp_path / "prior.pt"
    torch.save(state, path)
    require_intact(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"prior\.pt: damaged: .* differs from its checksum"):
        require_intact(path)
