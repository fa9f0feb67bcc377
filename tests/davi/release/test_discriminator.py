"""The release's patch discriminator, and the losses of both players by hand."""

import pytest
import torch
from torch import Tensor, nn

from davi.release.discriminator import (
    PatchDiscriminator,
    adaptive_weight,
    adversarial_loss,
    discriminator_loss,
)


def test_it_is_the_releases_network() -> None:
    network = PatchDiscriminator()
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_766_529
    outputs = network(torch.zeros(1, 3, 256, 256))
    assert [tuple(output.shape[1:]) for output in outputs] == [
        (64, 129, 129),
        (128, 65, 65),
        (256, 33, 33),
        (512, 34, 34),
        (1, 35, 35),
    ]
    expected = {f"model{n}.0.{kind}" for n in range(5) for kind in ("weight", "bias")}
    expected |= {
        f"model{n}.1.{kind}"
        for n in (1, 2, 3)
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert set(network.state_dict()) == expected


def test_it_starts_as_the_release_says() -> None:
    torch.manual_seed(0)
    state = PatchDiscriminator().state_dict()
    assert state["model3.0.weight"].std().item() == pytest.approx(0.02, rel=0.01)
    assert state["model3.1.weight"].mean().item() == pytest.approx(1, abs=0.005)
    assert state["model3.1.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert state["model3.1.bias"].abs().max() == 0
    assert state["model0.0.bias"].abs().max() > 0


def test_hinge_losses_by_hand() -> None:
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-3.0, 0.25])]
    # real: relu(1 - 2) = 0, relu(0.5) = 0.5; fake: relu(1 - 3) = 0, relu(1.25) = 1.25
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.625))
    assert adversarial_loss(real, fake, True).item() == pytest.approx(2.75 / 2)


def test_feature_matching_adds_mean_distances_of_all_stages_but_the_last() -> None:
    real = [torch.zeros(2, 3), torch.zeros(5), torch.tensor([7.0])]
    fake = [torch.full((2, 3), 0.5), torch.full((5,), -2.0), torch.tensor([1.0])]
    assert adversarial_loss(real, fake, False).item() == -1
    assert adversarial_loss(real, fake, True).item() == pytest.approx(-1 + 0.5 + 2)


def losses_of(weight: Tensor, pull: float) -> tuple[Tensor, Tensor]:
    """Losses with gradients of norm 3 and `pull` at the weight."""
    return 3 * weight[0, 0], pull * weight[0, 1]


@pytest.mark.parametrize(
    ("pull", "expected"),
    [(6.0, 3 / 6.0001), (0.0, 10.0), (1e6, 0.01), (1.5, 3 / 1.5001)],
)
def test_adaptive_weight_is_the_ratio_of_gradient_norms(pull: float, expected: float) -> None:
    layer = nn.Linear(2, 2)
    regulariser, adversarial = losses_of(layer.weight, pull)
    weight = adaptive_weight(regulariser, adversarial, layer.weight, 0.01, 10.0)
    assert weight.item() == pytest.approx(expected, rel=1e-5)
    assert not weight.requires_grad
    assert layer.weight.grad is None


def test_adaptive_weight_survives_the_small_gradients_of_fp16() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    small, large = 1e-8 * weight.half()[0, 0].float(), 3e-8 * weight.half()[0, 1].float()
    # Unscaled, both gradients vanish on their way through fp16.
    assert adaptive_weight(small, large, weight, 0.01, 10.0).item() == pytest.approx(0.01)
    small, large = 2e3 * small, 2e3 * large
    scaled = adaptive_weight(small, large, weight, 0.0, 10.0, torch.tensor(2.0**16))
    assert scaled.item() == pytest.approx(2e-5 / (6e-5 + 1e-4), rel=1e-2)
    overflowing = adaptive_weight(small, large, weight, 0.01, 10.0, torch.tensor(2.0**40))
    assert overflowing.item() == pytest.approx(0.01)
