"""Damaged and odd files of networks: none of them is used without a word."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import davi
from davi.priors.weight_file import read_prior_file
from davi.runs.run_folder import RunFolder
from davi.system.errors import InputError
from davi.weights.layouts import read_weight_file
from davi.weights.network_file import PRIOR, save_weights
from guided_diffusion.errors import CheckpointError
from tests.tiny import tiny_config, tiny_trainer, write_tiny_generator

Weights = dict[str, Tensor]
KEY = "out.2.bias"


@pytest.fixture(scope="module")
def generator(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("w") / "g.safetensors", tiny_prior)


def rewritten(
    source: Path,
    path: Path,
    change: Callable[[Weights], object] = lambda weights: None,
    **entries: str,
) -> Path:
    """The file with other tensors or entries in its header, and without a checksum."""
    weights = load_file(source)
    with safe_open(source, "pt") as stream:
        header = stream.metadata() | entries
    del header["sha256"]
    change(weights)
    save_file(weights, path, header)
    return path


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :]


def test_one_bit_is_enough_to_refuse_a_file(generator: Path, tmp_path: Path) -> None:
    data, damaged = generator.read_bytes(), tmp_path / "g.safetensors"
    tensors = 8 + struct.unpack("<Q", data[:8])[0]
    seed = data.index(b"seed") + len("seed") + len(r"\": ")  # its value, in the config
    for place in (tensors, len(data) // 2, len(data) - 3, seed):
        changed = data[:seed] + b"7" + data[seed + 1 :] if place == seed else flipped(data, place)
        assert changed != data
        damaged.write_bytes(changed)
        with pytest.raises(
            CheckpointError, match=r"g\.safetensors: damaged: differs from what was"
        ):
            davi.load(damaged, "cpu")


def test_a_file_of_before_there_were_checksums_is_used(generator: Path, tmp_path: Path) -> None:
    older = rewritten(generator, tmp_path / "g.safetensors")
    y = torch.zeros(1, 3, 4, 4)
    expected = davi.load(generator, "cpu").restore(y)
    assert torch.equal(davi.load(older, "cpu").restore(y), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_was_written_is_read(dtype: str, tmp_path: Path) -> None:
    weights = {"b": torch.rand(3, 2).T, "a": torch.tensor(1.5), "n": torch.tensor(3)}
    path = tmp_path / "w.safetensors"
    save_weights(path, weights, kind=PRIOR, config={}, iteration=7, dtype=dtype)
    file = read_weight_file(path)
    assert (file.config, file.iteration) == ({}, 7)
    assert torch.equal(file.part("prior")["b"], weights["b"].to(getattr(torch, dtype)))


def test_int8_is_off_by_half_a_step_of_each_channel(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 3, 3, 3, generator=rng) * torch.tensor([1e-3, 1, 50, 0]).view(
        4, 1, 1, 1
    )
    weights = {"a": matrix, "b": torch.tensor([0.5, -3.0])}
    path = tmp_path / "weights.safetensors"
    save_weights(path, weights, kind=PRIOR, config={}, iteration=7, dtype="int8")
    found = read_weight_file(path).part("prior")
    assert found.keys() == weights.keys()
    assert torch.equal(found["b"], weights["b"].half())
    error = (found["a"] - matrix).abs().flatten(1).amax(dim=1)
    assert (error <= matrix.abs().flatten(1).amax(dim=1) / 127 * 0.501).all()
    assert error[:3].all()
    assert load_file(path)["a"].dtype == torch.int8


def test_weights_too_large_for_a_dtype_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="a overflows in float16; choose --dtype float32"):
        save_weights(
            path, {"a": torch.tensor([1e5])}, kind=PRIOR, config={}, iteration=0, dtype="float16"
        )
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.int32), "holds torch.int32"),
        (lambda value: value > 0, "holds torch.bool"),
        (lambda value: value.to(torch.complex64), "holds torch.complex64"),
        (lambda value: value.to(torch.float8_e4m3fn), "holds torch.float8_e4m3fn"),
        (lambda value: value.to_sparse(), "torch.sparse_coo"),
        (lambda value: value * torch.nan, "holds NaN or infinity"),
        (lambda value: value.index_fill(0, torch.tensor(1), -torch.inf), "holds NaN or infinity"),
    ],
)
def test_what_are_no_finite_floats_is_refused(
    change: Callable[[Tensor], Tensor], message: str, tiny_prior: Path, tmp_path: Path
) -> None:
    def damage(weights: Weights) -> None:
        weights[KEY] = change(weights[KEY])

    weights = load_file(tiny_prior)
    damage(weights)
    torch.save(weights, tmp_path / "prior.pt")
    files = [tmp_path / "prior.pt"]
    if not weights[KEY].is_sparse:
        files.append(rewritten(tiny_prior, tmp_path / "prior.safetensors", damage))
    for path in files:
        with pytest.raises(
            CheckpointError, match=rf"prior\{path.suffix}: out\.2\.bias .*{message}"
        ):
            read_prior_file(path, tiny_config(tiny_prior).network).network()


@pytest.mark.parametrize("config", ["5", "[]", "{", '"text"', "[" * 100_000, "1" * 5000])
def test_a_header_of_another_shape_is_one_line(
    config: str, generator: Path, tmp_path: Path
) -> None:
    path = rewritten(generator, tmp_path / "g.safetensors", config=config)
    with pytest.raises(CheckpointError, match=r"g\.safetensors: damaged or not a") as caught:
        davi.load(path, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [{"network": []}, {"network": {}, "operator": 7}, {}])
def test_a_config_of_another_shape_is_one_line(
    values: dict, generator: Path, tmp_path: Path
) -> None:
    path = rewritten(generator, tmp_path / "g.safetensors", config=json.dumps(values))
    with pytest.raises(ValueError, match=r"g\.safetensors: ") as caught:
        davi.load(path, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", ["photos_64", [1], {"prediction": 3}])
def test_a_network_that_cannot_be_is_refused(
    network: object, tiny_prior: Path, tmp_path: Path
) -> None:
    config = json.dumps({"network": network})
    path = rewritten(tiny_prior, tmp_path / "prior.safetensors", config=config)
    with pytest.raises(InputError, match=r"prior\.safetensors: "):
        read_prior_file(path, tiny_config(tiny_prior).network)


@pytest.mark.parametrize(
    "schedule", [5, None, [1], "sine", "linear:0.1", "linear:0.02:0.0001", "cosine:0.1:0.2"]
)
def test_a_schedule_that_is_not_known_is_refused(
    schedule: object, tiny_prior: Path, tmp_path: Path
) -> None:
    config = json.dumps({"network": {}, "schedule": schedule})
    path = rewritten(tiny_prior, tmp_path / "prior.safetensors", config=config)
    with pytest.raises(ValueError, match=r"schedule: .* is no schedule; allowed: linear, "):
        read_prior_file(path, tiny_config(tiny_prior).network)


@pytest.fixture
def run_folder(tiny_prior: Path, tmp_path: Path) -> Path:
    """A run with one checkpoint, which is not what was written."""
    run = RunFolder(tmp_path / "run", tiny_config(tiny_prior), {})
    run.save(1, tiny_trainer(tiny_prior).state_dict(keep=True), None)
    checkpoint = tmp_path / "run/checkpoints/iteration_0000001.pt"
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(flipped(data, len(data) // 2))
    return tmp_path / "run"


def test_a_damaged_checkpoint_is_neither_sampled_nor_exported(
    run_folder: Path, tmp_path: Path, command: object
) -> None:
    for path in (run_folder, run_folder / "checkpoints/iteration_0000001.pt"):
        with pytest.raises(CheckpointError, match="differs from what was written"):
            davi.load(path, "cpu")
        code, output = command("export", path, "--output", tmp_path / "g.safetensors")
        assert code == 2
        assert "iteration_0000001.pt: differs from what was written (SHA-256)" in output
        assert len(output.splitlines()) == 1
    assert not (tmp_path / "g.safetensors").exists()


@pytest.mark.parametrize("key", ["config", "ema", "iteration"])
def test_a_checkpoint_of_another_shape_is_refused(key: str, run_folder: Path) -> None:
    run_folder.joinpath("checkpoints/manifest.json").unlink()
    path = run_folder / "checkpoints/iteration_0000001.pt"
    content = torch.load(path, weights_only=True)
    for value in (5.0, [], {1: torch.zeros(1)}, {"a": torch.zeros(2), "b": 3}):
        torch.save({**content, key: value}, path)
        with pytest.raises(CheckpointError, match="holds no network known here"):
            davi.load(path, "cpu")
