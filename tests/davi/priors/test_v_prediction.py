"""Networks that predict v: the same scores, denoisers and files as those that predict the noise."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from davi.benchmarks.ladders import random_network
from davi.config.other_runs import TeacherRunConfig
from davi.config.yaml_file import load_config
from davi.folders.generating import load_prior
from davi.generator import DenoisingGenerator
from davi.operators.measurement import lift
from davi.priors.weight_file import read_prior_file
from davi.runs.build import (
    assemble_teacher_trainer,
    build_prior_trainer,
    build_trainer,
)
from davi.runs.inputs import input_record
from davi.schedule import Schedule
from davi.score import RESIZE, ScoreModel
from davi.system.errors import InputError
from davi.system.files import sha256_of
from tests.conftest import REPOSITORY
from tests.tiny import ALONE, tiny_config, tiny_prior_config, write_tiny_prior

LINEAR = Schedule.named("linear")
TIMES = torch.tensor([0, 10, 300, 900, 999])
DEVIATION = 0.4  # of white images


class Exact(nn.Module):
    """The best prediction for white Gaussian images."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = LINEAR.alpha_bar_t(t, x_t)
        variance = alpha_bar * DEVIATION**2 + 1 - alpha_bar  # of x_t
        x0 = alpha_bar.sqrt() * DEVIATION**2 / variance * x_t
        eps = (1 - alpha_bar).sqrt() / variance * x_t
        return eps if self.prediction == "eps" else LINEAR.v(x0, t, eps)


def noised(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    eps, x0 = torch.randn(2, len(TIMES), 3, 4, 4, generator=rng, dtype=dtype)
    return LINEAR.add_noise(DEVIATION * x0, TIMES, eps), DEVIATION * x0, eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_network_that_predicts_v_has_the_same_score(dtype: torch.dtype) -> None:
    x_t, _, _ = noised(dtype)
    scores = [
        ScoreModel(Exact(name), LINEAR, prediction=name).score(x_t, TIMES) for name in ("eps", "v")
    ]
    torch.testing.assert_close(*scores)


def test_the_error_of_v_is_that_of_the_noise_over_alpha_bar() -> None:
    x_t, x0, eps = noised()
    model = ScoreModel(Exact("v"), LINEAR, prediction="v")
    of_v = (model.predict(x_t, TIMES)[0] - model.wanted(x0, TIMES, eps)).square()
    of_eps = (model.eps(x_t, TIMES) - eps).square()
    torch.testing.assert_close(of_v, of_eps / LINEAR.alpha_bar_t(TIMES, eps))


def test_a_denoiser_begins_as_the_same_one() -> None:
    u = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    generators = [
        DenoisingGenerator(Exact(name), LINEAR, 0.3, prediction=name) for name in ("eps", "v")
    ]
    torch.testing.assert_close(*(one(u, torch.tensor([999, 999])) for one in generators))


def test_a_teacher_begins_as_its_prior_in_the_hole() -> None:
    changes = (
        "network.prediction=v",
        "network.image_size=16",
        "operator.box_size=8",
        "teacher.image_deviation=1.0",
        "train.precision=fp32",
    )
    path = REPOSITORY / "configs/photos_inpainting_teacher.yaml"
    config = load_config(path, TeacherRunConfig, changes)
    network = random_network(config.network.unet())
    prior = ScoreModel(network, LINEAR, prediction="v")
    x0 = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    t, eps = torch.tensor([10, 300, 999]), torch.randn(x0.shape)
    x_t = LINEAR.add_noise(x0, t, eps)
    with torch.no_grad():
        wanted = LINEAR.x0_from_eps(x_t, t, prior.eps(x_t, t))
        teacher = assemble_teacher_trainer(config, network, x0, ALONE).model.eval()
        y_image = lift(teacher.operator.A(x0), x0.shape[1:], RESIZE)
        found = teacher.denoise(x_t, t, teacher.white_mean(y_image))
    hole = teacher.operator.singular_values.expand(x0.shape[1:]) == 0
    torch.testing.assert_close(found[:, hole], wanted[:, hole], rtol=1e-3, atol=1e-4)


def test_a_prior_of_another_prediction_is_refused(tmp_path: Path) -> None:
    path = write_tiny_prior(tmp_path / "prior.safetensors", "network.prediction=v")
    assert read_prior_file(path).prediction == "v"
    with pytest.raises(InputError, match=r"predicts v; network\.prediction is eps, set it"):
        read_prior_file(path, tiny_config(path).network)


def test_all_that_is_made_of_a_prior_knows_what_it_predicts(tmp_path: Path) -> None:
    path = write_tiny_prior(tmp_path / "prior.safetensors", "network.prediction=v")
    assert load_prior(path, ALONE.device, "fp32")[0].prediction == "v"
    trainer = build_trainer(tiny_config(path, "network.prediction=v", "recipe=posterior"), ALONE)
    models = (trainer.prior.model, trainer.fake_score, trainer.generator, trainer.ema.module)
    assert {model.prediction for model in models} == {"v"}


def test_training_begins_with_given_weights(tiny_prior: Path) -> None:
    config = tiny_prior_config(f"init={tiny_prior}", "network.prediction=v")
    assert input_record(config)["init"] == sha256_of(tiny_prior)
    network = build_prior_trainer(config, ALONE).model.network
    given = read_prior_file(tiny_prior).weights
    assert all(torch.equal(value, given[name]) for name, value in network.state_dict().items())
