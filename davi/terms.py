"""The terms of Algorithm 1 as functions of networks and draws: nothing in them is random.

Each can be called alone, with recorded draws and weights, and compared with recorded values.
"""

import torch
from torch import Tensor

from davi.bridge import PosteriorBridge
from davi.generator import ImplicitGenerator
from davi.likelihood import PosteriorTarget
from davi.losses import (
    data_consistency,
    fake_score_loss,
    ikl_surrogate,
    kept_pixels_regulariser,
    l2_regulariser,
    reduce,
)
from davi.operators.noise import Noise
from davi.operators.operator import Operator
from davi.release.variational_bound import variational_bound
from davi.score import FrozenPrior, PosteriorDenoiser, ScoreModel

LARGEST_GAP = 1.0  # of a sample, between the deviations F of s_psi and a teacher


def generate(
    generator: ImplicitGenerator,
    bridge: PosteriorBridge,
    x0: Tensor,
    y_image: Tensor,
    a: Tensor,
    z: Tensor,
) -> Tensor:
    """Returns x0_hat = I_phi,a(y_a), shape as x0.

    Source: Algorithm 1, lines 4 and 5.

    Args:
        generator: I_phi,a.
        bridge: between clean image and measurement.
        x0: (B, C, H, W) clean images in [-1, 1].
        y_image: (B, C, H, W) measurements on the image grid, see `measurement.image_of`.
        a: (B,) bridge index.
        z: standard normal, shape as x0.
    """
    return generator(bridge.perturb(x0, y_image, a, z), a, y_image)


def fake_score_term(
    fake_score: ScoreModel,
    x0_hat: Tensor,
    t: Tensor,
    eps: Tensor,
    *,
    y_image: Tensor | None = None,
    with_bound: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Returns L_S of line 10, a scalar without graph to the generator.

    Source: Eq. 12; with `with_bound` the release's variational bound is added, in bits.

    Args:
        fake_score: s_psi; with the bound, its network has variance channels.
        x0_hat: (B, C, H, W) samples of the generator; taken as constants.
        t: (B,) diffusion index.
        eps: standard normal, shape as x0_hat.
        y_image: (B, C, H, W) measurements on the image grid, for an s_psi that sees them.
        with_bound: train the learned variance, too.
        reduction: see `losses.reduce`.
    """
    schedule, x0_hat = fake_score.schedule, x0_hat.detach()
    x_t = schedule.add_noise(x0_hat, t, eps)
    eps_hat, variance = fake_score.eps_and_variance(x_t, t, y_image)
    loss = fake_score_loss(eps_hat, eps, reduction)
    if with_bound:
        bits = variational_bound(schedule, x0_hat, x_t, t, eps_hat, variance)
        loss = loss + reduce(bits, reduction)
    return loss


def ikl_term(
    fake_score: ScoreModel,
    prior: FrozenPrior,
    x0_hat: Tensor,
    t: Tensor,
    eps: Tensor,
    *,
    y_image: Tensor | None = None,
    ikl_weight: str = "sigma_over_alpha",
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Returns the surrogate of L_IKL of line 14, and the mean square of w(t) (s_psi - s_theta).

    Source: Eq. 11. With the default weight the surrogate has the value of the release's, too.

    Args:
        fake_score: s_psi.
        prior: s_theta.
        x0_hat: (B, C, H, W) samples, with graph back to phi.
        t: (B,) diffusion index.
        eps: standard normal, shape as x0_hat.
        y_image: (B, C, H, W) measurements on the image grid, for an s_psi that sees them.
        ikl_weight: see `Schedule.ikl_weight`.
        reduction: see `losses.reduce`.
    """
    schedule = fake_score.schedule
    with torch.no_grad():
        x_t = schedule.add_noise(x0_hat, t, eps)
        delta_s = fake_score.score(x_t, t, y_image) - prior.score(x_t, t)
        gap = schedule.ikl_weight(ikl_weight, t, x_t) * delta_s
        direction = schedule.alpha_bar_t(t, x_t).sqrt() * gap
    return ikl_surrogate(x0_hat, direction, reduction), gap.square().mean()


def posterior_term(
    fake_score: ScoreModel,
    target: PosteriorTarget,
    x0_hat: Tensor,
    y: Tensor,
    operator: Operator,
    sigma: float | Tensor,
    t: Tensor,
    eps: Tensor,
    y_image: Tensor | None,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Returns L_S and the direction of L_IKL, where the target is a posterior.

    The noise of the target is eps_theta minus what the likelihood's score says; s_psi is held as
    that target plus its difference from the prior, eps_psi - eps_theta, which is all that has to be
    learned, and is 0 once the samples are posterior samples. The direction is taken before s_psi
    steps: after a step on these very draws it would lean against their own x0_hat.

    Args:
        fake_score: s_psi.
        target: the posterior as prior and likelihood.
        x0_hat: (B, C, H, W) samples of the generator; taken as constants.
        y: (B, *measurement_shape) measurements.
        operator: A.
        sigma: deviation of the noise in y, each image's own.
        t: (B,) diffusion index.
        eps: standard normal, shape as x0_hat.
        y_image: (B, C, H, W) measurements on the image grid, for an s_psi that sees them.
        reduction: see `losses.reduce`.
    """
    schedule, x0_hat = fake_score.schedule, x0_hat.detach()
    x_t = schedule.add_noise(x0_hat, t, eps)
    eps_theta, likelihood_score = target.parts(y, operator, sigma, x0_hat, x_t, t)
    eps_hat = fake_score.eps(x_t, t, y_image)
    shifted = eps - schedule.eps_from_score(likelihood_score, t)
    loss = fake_score_loss(eps_hat, shifted, reduction)
    s = schedule.noise_ratio(t, x_t)
    direction = target.weigh((eps_theta - eps_hat.detach()) / s.sqrt(), s, operator, sigma)
    return loss, direction


def teacher_term(
    fake_score: PosteriorDenoiser,
    teacher: PosteriorDenoiser,
    x0_hat: Tensor,
    t: Tensor,
    eps: Tensor,
    y_image: Tensor,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Returns L_S and the direction of L_IKL, where the target is what a teacher learned.

    Both networks say E[x0 | x_t, y] in deviations, F. The direction is that from s_psi's F to the
    teacher's, in units in which every singular direction has spread one half, and taken before
    s_psi steps, as in `posterior_term`. Of a sample that is far from what the teacher knows, F may
    be 25 deviations at low noise; no image counts with more than one (root mean square), or a few
    of them lead the whole batch, and the training diverges.

    Args:
        fake_score: s_psi.
        teacher: knows p(x_t | y).
        x0_hat: (B, C, H, W) samples of the generator; taken as constants.
        t: (B,) diffusion index.
        eps: standard normal, shape as x0_hat.
        y_image: (B, C, H, W) measurements on the image grid.
        reduction: see `losses.reduce`.
    """
    x0_hat, mean = x0_hat.detach(), teacher.white_mean(y_image)
    x_t = fake_score.schedule.add_noise(x0_hat, t, eps)
    found = fake_score.residual(x_t, t, mean)
    with torch.no_grad():
        gap = found - teacher.residual(x_t, t, mean)
        size = gap.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        gap = gap / size.clamp(min=LARGEST_GAP)
    loss = fake_score_loss(found, teacher.residual_of(x0_hat, x_t, t, mean), reduction)
    return loss, teacher.scale(gap, 1 / (2 * teacher.variance.sqrt()))


def consistency_term(
    y: Tensor,
    operator: Operator,
    noise: Noise,
    x0_hat: Tensor,
    reduction: str = "mean",
) -> Tensor:
    """Returns L_C of line 13 without gamma, a scalar.

    Source: Eq. 8, for Poisson noise Eq. 37.

    Args:
        y: (B, *measurement_shape) measurements.
        operator: A.
        noise: gives the weight of each entry.
        x0_hat: (B, C, H, W) samples.
        reduction: see `losses.reduce`.
    """
    return data_consistency(y, operator.A(x0_hat), noise.consistency_weight(y), reduction)


def regulariser_term(
    x0_hat: Tensor,
    x0: Tensor,
    operator: Operator,
    *,
    where: str = "everywhere",
    reduction: str = "mean",
) -> Tensor:
    """Returns the l2 regulariser without its weight, a scalar.

    Source: supplement C.1; "kept_pixels", for inpainting: release.

    Args:
        x0_hat: (B, C, H, W) samples.
        x0: clean images.
        operator: A; for "kept_pixels" an SVDOperator, whose singular values tell them.
        where: "everywhere" or "kept_pixels".
        reduction: see `losses.reduce`.
    """
    if where == "everywhere":
        return l2_regulariser(x0_hat, x0, reduction)
    mask = operator.singular_values.to(x0.dtype)
    return kept_pixels_regulariser(x0_hat, x0, mask, reduction)
