"""Blur by a kernel of each image's own: measured, known again, trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from davi.data.images import load_image
from davi.data.measurement_files import read_kernel
from davi.folders.measured import known_measurements
from davi.operators.convolution import Convolution
from davi.system.errors import InputError
from davi.terms import consistency_term
from tests.conftest import REPOSITORY
from tests.tiny import tiny_trainer

OPERATOR = "operator={name: convolution, kernel_size: 9}"
NOISE = "noise.sigma=0.01"


@pytest.fixture(scope="module")
def x0() -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return 2 * torch.rand(2, 3, 16, 16, generator=rng) - 1


def test_the_kernel_of_each_image_lies_beside_its_measurement(
    script: object, tmp_path: Path
) -> None:
    set_up = ("--set", OPERATOR, "--set", NOISE, "--input", "photos:held_out", "--num-images", 2)
    config = REPOSITORY / "configs/tiny.yaml"
    assert script("degrade", config, *set_up, "--output", tmp_path / "m")[0] == 0
    names = sorted(path.stem for path in (tmp_path / "m/kernel").glob("*.npy"))
    assert len(names) == len(list((tmp_path / "m/kernel").glob("*.png"))) == 2
    known = known_measurements(tmp_path / "m", dict.fromkeys(names, (16, 16)))
    kernels = []
    for name in names:
        y, operator = known.read(name)
        picture = torch.from_numpy(np.load(tmp_path / f"m/kernel/{name}.npy"))
        assert torch.equal(operator.kernel[0, 0], picture)
        x = load_image(tmp_path / f"m/reference/{name}.png")[None]
        assert (y - operator.A(x)).std() < 0.013  # sigma, and the rounding of the reference
        kernels.append(picture)
    assert not torch.equal(*kernels)


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.npy"
    for array, message in (
        (np.full((3, 3), 1 / 9, np.float32), "5x5 needed"),
        (np.full((5, 5), 1.0, np.float32), "no kernel"),
        (np.eye(5, dtype=np.float32) - np.full((5, 5), 4 / 25, np.float32), "no kernel"),
    ):
        np.save(path, array)
        with pytest.raises(InputError, match=message):
            read_kernel(path, 5)


def test_training_compares_each_image_by_its_own_kernel(tiny_prior: Path, x0: Tensor) -> None:
    trainer = tiny_trainer(
        tiny_prior, OPERATOR, "generator.sees_measurement=true", "train.batch_size=2"
    )
    inputs = trainer.inputs.draw(x0, range(2), "train", 0)
    kernels = inputs.operator.kernel
    assert not torch.equal(kernels[0], kernels[1])
    noise, x = trainer.forward_model.noise, x0.flip(0)
    together = consistency_term(inputs.y, inputs.operator, noise, x, "mean")
    apart = [
        consistency_term(
            inputs.y[i : i + 1], Convolution((3, 16, 16), kernels[i : i + 1]), noise, x[i : i + 1],
            "mean",
        )
        for i in range(2)
    ]  # fmt: skip
    torch.testing.assert_close(together, sum(apart) / 2)
    before = trainer.generator.network.out[-1].weight.clone()
    losses = trainer.train_step(x0, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert not torch.equal(trainer.generator.network.out[-1].weight, before)
