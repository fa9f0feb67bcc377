"""Which problems can have the posterior as their target."""

from pathlib import Path

import pytest
import torch

from davi.runs.build import build_images
from davi.system.errors import InputError
from tests.tiny import tiny_config, tiny_trainer

POISSON = ("recipe=posterior", "noise={name: poisson}")
BLUR = "operator={name: gaussian_blur, kernel_size: 5, sigma: 1.0}"
MASKS = "operator={name: inpainting, mask: random_box, box_size: 8}"
SHIFT = """
from davi.operators.linear import LinearOperator

class Shift(LinearOperator):
    def __init__(self, image_shape):
        super().__init__(image_shape, image_shape)

    def A(self, x):
        return x.roll(1, dims=-1)

    def A_adjoint(self, y):
        return y.roll(-1, dims=-1)
"""


@pytest.fixture
def shift(tmp_path: Path) -> str:
    """An operator that knows A and its adjoint alone."""
    (tmp_path / "shift.py").write_text(SHIFT)
    return f"operator={{name: custom, file: {tmp_path / 'shift.py'}}}"


@pytest.mark.parametrize("settings", [(MASKS,), (BLUR, "loss.likelihood=sample")])
def test_a_step_towards_a_posterior_under_poisson_noise(
    settings: tuple[str, ...], tiny_prior: Path
) -> None:
    images = build_images(tiny_config(tiny_prior), "train")
    trainer = tiny_trainer(tiny_prior, *POISSON, *settings)
    terms = trainer.train_step(torch.stack([images[index] for index in range(4)]), 0)
    assert all(value.isfinite() for value in terms.values())


@pytest.mark.parametrize("form", ["noised", "denoised"])
def test_poisson_noise_needs_a_diagonal_gram(form: str, tiny_prior: Path) -> None:
    with pytest.raises(InputError, match=f"{form} with Poisson noise .* not of GaussianBlur; set"):
        tiny_trainer(tiny_prior, *POISSON, BLUR, f"loss.likelihood={form}")


def test_without_singular_values_one_form_remains(shift: str, tiny_prior: Path) -> None:
    settings = (*POISSON, shift, "loss.spectral_power=null")
    assert tiny_trainer(tiny_prior, *settings, "loss.likelihood=sample").target.form == "sample"
    with pytest.raises(InputError, match="Shift has no singular values; for it set"):
        tiny_trainer(tiny_prior, *settings, "loss.likelihood=noised")


def test_patches_must_fit_the_images(tiny_prior: Path) -> None:
    with pytest.raises(InputError, match=r"energy_patches: sides must divide .* 16x16; 6 does not"):
        tiny_trainer(tiny_prior, "recipe=energy", "loss.energy_patches=[1, 6]")


def test_a_target_without_a_loss_is_refused(tiny_prior: Path) -> None:
    with pytest.raises(InputError, match="ikl: 0 leaves no loss"):
        tiny_trainer(tiny_prior, "recipe=posterior", "loss.ikl=0")
