"""The times at which networks learn."""

import math

import pytest
import torch

from davi.priors.trainer import PriorTrainer
from davi.runs.build import build_prior_trainer
from davi.schedule import Schedule
from davi.training.inputs import time_draws
from tests.tiny import ALONE, tiny_prior_config

LINEAR = Schedule.named("linear")
NUM_DRAWS = 4000
FOUR_DEVIATIONS = 4 * 0.5 / math.sqrt(NUM_DRAWS)  # of a share of the draws


def share_below(t: int, noise_range: tuple[float, float] | None) -> float:
    rng = torch.Generator().manual_seed(0)
    draw = time_draws(LINEAR, len(LINEAR), noise_range)
    return sum(draw(rng).item() < t for _ in range(NUM_DRAWS)) / NUM_DRAWS


@pytest.mark.parametrize("t", [50, 259, 600])
def test_times_have_log_uniform_noise_in_a_range(t: int) -> None:
    noise = math.sqrt(1 / LINEAR.alpha_bar[t].item() - 1)
    wanted = math.log(noise / 0.02) / math.log(160 / 0.02)
    assert share_below(t, (0.02, 160)) == pytest.approx(wanted, abs=FOUR_DEVIATIONS)


def test_times_are_as_likely_without_a_range() -> None:
    assert share_below(300, None) == pytest.approx(0.3, abs=FOUR_DEVIATIONS)


def test_a_prior_learns_in_the_range_of_its_config() -> None:
    trainer = build_prior_trainer(tiny_prior_config("noise_range=[0.5, 0.6]"), ALONE)
    assert isinstance(trainer, PriorTrainer)
    _, t, _ = trainer._noised(torch.zeros(8, 3, 16, 16), range(8), "train", 0)
    noise = LINEAR.noise_ratio(t, torch.zeros(1, dtype=torch.float64)).sqrt()
    assert ((noise > 0.5) & (noise < 0.61)).all()
