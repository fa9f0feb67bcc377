"""Each term of Algorithm 1 against its formula, and its gradient by hand."""

import torch

from davi.losses import data_consistency, fake_score_loss, ikl_surrogate, l2_regulariser
from davi.schedule import Schedule


def normals(count: int, rng: torch.Generator) -> torch.Tensor:
    return torch.randn(count, 4, 3, 5, 5, generator=rng, dtype=torch.float64)


def test_fake_score_loss_is_equation_12(rng: torch.Generator) -> None:
    schedule, t = Schedule.named("linear"), torch.tensor([1, 50, 500, 999])
    eps_hat, eps = normals(2, rng)
    gap = schedule.score_from_eps(eps_hat, t) - schedule.score_from_eps(eps, t)
    weight = schedule.ikl_weight("variance", t, eps)
    torch.testing.assert_close(fake_score_loss(eps_hat, eps), (weight * gap**2).mean())


def test_data_consistency_is_a_weighted_mean_square(rng: torch.Generator) -> None:
    y, y_hat, weight = normals(3, rng)
    expected = (weight * (y - y_hat) ** 2).sum() / y.numel()
    torch.testing.assert_close(data_consistency(y, y_hat, weight), expected)


def test_ikl_gradient_reaches_the_image_as_equation_11(rng: torch.Generator) -> None:
    schedule, t = Schedule.named("linear"), torch.tensor([1, 50, 500, 999])
    x0, eps, delta_s = normals(3, rng)
    x0.requires_grad_()
    for name in ("sigma_over_alpha", "constant", "variance"):
        w_t = schedule.ikl_weight(name, t, x0)
        x_t = schedule.add_noise(x0, t, eps)
        alpha = schedule.alpha_bar[t].sqrt().view(4, 1, 1, 1)
        (gradient,) = torch.autograd.grad(ikl_surrogate(x0, alpha * w_t * delta_s), x0)
        (expected,) = torch.autograd.grad((w_t * delta_s * x_t).mean(), x0)
        torch.testing.assert_close(gradient, expected)


def test_ikl_takes_the_score_gap_as_a_constant(rng: torch.Generator) -> None:
    x_t, delta_s = normals(2, rng)
    x_t.requires_grad_()
    delta_s.requires_grad_()
    ikl_surrogate(x_t, delta_s).backward()
    assert x_t.grad is not None
    assert delta_s.grad is None


def test_regulariser_is_the_mean_square(rng: torch.Generator) -> None:
    x0_hat, x0 = normals(2, rng)
    torch.testing.assert_close(l2_regulariser(x0_hat, x0), ((x0 - x0_hat) ** 2).mean())
