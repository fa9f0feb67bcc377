"""A generator whose operator is read from a file: the file's content goes with the weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import davi
from davi.folders.degrading import recorded_operator
from davi.runs.inputs import input_record
from davi.runs.run_folder import RunFolder
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.weights.generator_file import read_generator_file
from davi.weights.network_file import GENERATOR, save_weights
from tests.tiny import tiny_config, tiny_trainer, write_tiny_generator


def write_mask(path: Path, column: int) -> Path:
    """A mask of 16x16 without the four columns from `column` on."""
    pixels = np.full((16, 16), 255, np.uint8)
    pixels[:, column : column + 4] = 0
    Image.fromarray(pixels).save(path)
    return path


def with_mask(mask: Path) -> str:
    return f"operator={{name: inpainting, mask: file, path: {mask}}}"


@pytest.fixture
def run_folder(tiny_prior: Path, tmp_path: Path) -> Path:
    """A run with a mask of its own, which is gone."""
    mask = write_mask(tmp_path / "mask.png", 3)
    trainer = tiny_trainer(tiny_prior, with_mask(mask))
    run = RunFolder(tmp_path / "run", tiny_config(tiny_prior, with_mask(mask)), {})
    mask.unlink()
    run.save(1, trainer.state_dict(keep=True), None)
    return tmp_path / "run"


def test_checkpoint_and_exported_file_hold_the_mask(
    run_folder: Path, tmp_path: Path, command: object
) -> None:
    assert command("export", run_folder, "--output", tmp_path / "g.safetensors")[0] == 0
    for path in (run_folder, tmp_path / "g.safetensors"):
        kept = davi.load(path, "cpu").operator.singular_values
        assert (kept == 0).nonzero()[:, 1].unique().tolist() == [3, 4, 5, 6]
        assert kept.sum() == 12 * 16


def test_another_mask_can_be_named(run_folder: Path, tmp_path: Path) -> None:
    other = write_mask(tmp_path / "other.png", 8)
    restorer = davi.load(run_folder, "cpu", overrides=[f"operator.path={other}"])
    assert (restorer.operator.singular_values == 0).nonzero()[:, 1].unique().tolist() == [
        *range(8, 12)
    ]


def test_no_mask_is_opened_that_only_a_weight_file_names(tiny_prior: Path, tmp_path: Path) -> None:
    """Files that were written before the mask lay in them still work, with the mask named."""
    mask = write_mask(tmp_path / "mask.png", 3)
    path = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior, with_mask(mask))
    with pytest.raises(
        InputError, match=r"mask lies in .*mask\.png and .* --set operator\.path=PATH"
    ):
        davi.load(path, "cpu")
    named = [f"operator.path={mask}"]
    assert davi.load(path, "cpu", overrides=named).task == "inpainting"
    records = [read_generator_file(path, overrides=named).record()]
    write_mask(mask, 4)
    records.append(read_generator_file(path, overrides=named).record())
    assert records[0] != records[1]  # so that "done before" is never said of another mask


def test_the_mask_is_that_of_the_beginning(tiny_prior: Path, tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "mask.png", 3)
    trainer = tiny_trainer(tiny_prior, with_mask(mask))
    run = RunFolder(tmp_path / "run", tiny_config(tiny_prior, with_mask(mask)), {})
    write_mask(mask, 9)
    run.save(1, trainer.state_dict(keep=True), None)
    kept = davi.load(tmp_path / "run", "cpu").operator.singular_values
    assert torch.equal(kept, trainer.inputs.forward_model.operator.singular_values)


def test_a_mask_is_the_same_in_a_file_of_its_own_and_in_the_weights(
    run_folder: Path, tiny_prior: Path, tmp_path: Path
) -> None:
    """So that measurements of the training's own mask get no note."""
    inside = davi.load(run_folder, "cpu").config.operator
    same, other = (
        tiny_config(tiny_prior, with_mask(write_mask(tmp_path / f"{column}.png", column))).operator
        for column in (3, 4)
    )
    assert recorded_operator(inside) == recorded_operator(same) != recorded_operator(other)


def test_the_weights_of_a_blur_are_recorded_and_named_by_the_user(
    tiny_prior: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "GOPRO_wVAE.pth"
    weights.write_bytes(b"the network")
    blur = f"operator={{name: bks, weights: {weights}}}"
    config = tiny_config(tiny_prior, "network.image_size=128", blur)
    assert input_record(config)["operator.weights"] == sha256_of(weights)
    assert recorded_operator(config.operator)["weights"] == sha256_of(weights)
    values = config.model_dump(mode="json")
    path = tmp_path / "g.safetensors"
    layer = {"out.2.bias": torch.zeros(3)}
    save_weights(path, layer, kind=GENERATOR, config=values, iteration=0, dtype="float32")
    with pytest.raises(
        InputError, match=r"blur is the network in .*wVAE\.pth, .* --set operator\.weights=PATH"
    ):
        davi.load(path, "cpu")
