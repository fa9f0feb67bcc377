"""The terms of Algorithm 1 as pure functions of tensors.

By default they are means over batch and entries, as in the release: the weights of Table 12 belong
to means. With reduction "sum" the entries of an image are summed, as the paper writes them, and the
mean is over the batch only.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

EVERYWHERE_WEIGHT = 0.1  # of all pixels in the release's regulariser for inpainting


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Returns the "mean" of all values (B, ...), or the mean over B of their "sum"."""
    return values.mean() if reduction == "mean" else values.sum() / len(values)


def fake_score_loss(eps_hat: Tensor, eps: Tensor, reduction: str = "mean") -> Tensor:
    """Returns L_S, a scalar.

    Source: Eq. 12 with lambda(t) = 1 - alpha_bar_t, where |s_psi - s|^2 is |eps_hat - eps|^2.

    Args:
        eps_hat: (B, ...) noise predicted by s_psi at x_t.
        eps: the noise in x_t.
        reduction: see `reduce`.
    """
    return reduce((eps_hat - eps).square(), reduction)


def data_consistency(y: Tensor, y_hat: Tensor, weight: Tensor, reduction: str = "mean") -> Tensor:
    """Returns L_C without gamma, a scalar.

    Source: Eq. 8 (weight 1; Algorithm 1 folds 1 / (2 sigma_y^2) into gamma), Eq. 37 (weight
    Lambda).

    Args:
        y: (B, ...) measurements.
        y_hat: A x0_hat.
        weight: broadcasts against y, see `consistency_weight` of the noise models.
        reduction: see `reduce`.
    """
    return reduce(weight * (y - y_hat).square(), reduction)


def ikl_surrogate(x0_hat: Tensor, direction: Tensor, reduction: str = "mean") -> Tensor:
    """Returns a scalar whose gradient is that of L_IKL; its value is not that of L_IKL.

    Source: Eq. 11, w(t) (s_psi - s_theta) dx_t / dphi, where dx_t = sqrt(alpha_bar_t) dx0_hat.

    Args:
        x0_hat: (B, ...) samples, with graph back to phi.
        direction: w(t) sqrt(alpha_bar_t) (s_psi - s_theta); taken as a constant.
        reduction: see `reduce`.
    """
    return reduce(direction.detach() * x0_hat, reduction)


def l2_regulariser(x0_hat: Tensor, x0: Tensor, reduction: str = "mean") -> Tensor:
    """Returns the mean squared distance between restored and clean images (supplement C.1)."""
    return reduce((x0_hat - x0).square(), reduction)


def energy_surrogate(
    x0_hat: Tensor, other: Tensor, x0: Tensor, sides: Sequence[int], reduction: str = "mean"
) -> Tensor:
    """Returns a scalar whose gradient is that of the mean energy score; its value is not the score.

    The score of a patch is E|x0_hat - x0| - E|x0_hat - other| / 2, with Euclidean norms and two
    independent samples of one measurement. Both pull alike: with the gradient of one alone the
    half goes. It is least where the patches of samples are distributed as those of x0 are, given
    y, so that on average its gradient vanishes at the posterior.
    Source: Gneiting & Raftery 2007, Strictly Proper Scoring Rules, Eq. 22 with beta = 1.

    Args:
        x0_hat: (B, C, H, W) samples, with graph back to phi.
        other: an independent sample for each measurement; taken as a constant.
        x0: clean images.
        sides: of the patches in pixels, which divide H and W. A patch has all channels; the norm
            of a difference is divided by the side.
        reduction: see `reduce`; an entry is a patch.
    """
    terms = []
    for side in sides:
        sample, second, truth = (F.pixel_unshuffle(x, side) for x in (x0_hat, other.detach(), x0))
        score = vector_norm(sample - truth, dim=1) - vector_norm(sample - second, dim=1)
        terms.append(reduce(score / side, reduction))
    return sum(terms) / len(sides)


def kept_pixels_regulariser(
    x0_hat: Tensor, x0: Tensor, mask: Tensor, reduction: str = "mean"
) -> Tensor:
    """Returns the release's regulariser of inpainting: l2 over the kept pixels, and a tenth of l2.

    Args:
        x0_hat: (B, C, H, W) restored images.
        x0: clean images.
        mask: 1 where a pixel is kept; broadcasts against x0.
        reduction: see `reduce`; the mean over kept pixels counts these alone.
    """
    error = (x0_hat - x0).square()
    kept = reduce(mask * error, reduction)
    if reduction == "mean":
        kept = kept / mask.expand_as(error).mean(dtype=error.dtype)
    return EVERYWHERE_WEIGHT * reduce(error, reduction) + kept
