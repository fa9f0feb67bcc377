"""The terms of Algorithm 1 as pure functions of tensors.

All are means over batch and entries, as in the release: the weights of Table 12 belong to means.
"""

import torch
from torch import Tensor


def fake_score_loss(eps_hat: Tensor, eps: Tensor) -> Tensor:
    """Returns L_S, a scalar.

    Source: Eq. 12 with lambda(t) = 1 - alpha_bar_t, where |s_psi - s|^2 is |eps_hat - eps|^2.

    Args:
        eps_hat: (B, ...) noise predicted by s_psi at x_t.
        eps: the noise in x_t.
    """
    return (eps_hat - eps).square().mean()


def data_consistency(y: Tensor, y_hat: Tensor, weight: Tensor) -> Tensor:
    """Returns L_C without gamma, a scalar.

    Source: Eq. 8 (weight 1; Algorithm 1 folds 1 / (2 sigma_y^2) into gamma), Eq. 37 (weight
    Lambda).

    Args:
        y: (B, ...) measurements.
        y_hat: A x0_hat.
        weight: broadcasts against y, see `consistency_weight` of the noise models.
    """
    return (weight * (y - y_hat).square()).mean()


def ikl_surrogate(x_t: Tensor, delta_s: Tensor, w_t: Tensor) -> Tensor:
    """Returns a scalar whose gradient is that of L_IKL; its value means nothing.

    Source: Eq. 11, w(t) (s_psi - s_theta) dx_t / dphi.

    Args:
        x_t: (B, ...) noised samples, with graph back to phi.
        delta_s: s_psi(x_t, t) - s_theta(x_t, t); taken as a constant.
        w_t: broadcasts against x_t, see `Schedule.ikl_weight`.
    """
    return ((w_t * delta_s).detach() * x_t).mean()


def l2_regulariser(x0_hat: Tensor, x0: Tensor) -> Tensor:
    """Returns the mean squared distance between restored and clean images (supplement C.1)."""
    return torch.nn.functional.mse_loss(x0_hat, x0)
