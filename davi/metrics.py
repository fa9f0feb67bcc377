"""How far restorations are from the truth: per-image PSNR and SSIM, LPIPS, and FID of two sets."""

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

DATA_RANGE = 2.0  # of images in [-1, 1]
SSIM_WINDOW = 11  # side in pixels of the Gaussian window of sigma 1.5


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of each image in dB, (B,) float64.

    Args:
        x: (B, C, H, W), clipped to [-1, 1].
        reference: shape as x, in [-1, 1].
    """
    error = (x.clamp(-1, 1).double() - reference.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(DATA_RANGE**2 / error)


def ssim(x: Tensor, reference: Tensor) -> Tensor:
    """Returns the structural similarity of each image, (B,) float64.

    Source: Wang et al. 2004: Gaussian window of sigma 1.5, population covariances, mean over
    channels.

    Args:
        x: (B, C, H, W), sides of at least `SSIM_WINDOW`, clipped to [-1, 1].
        reference: shape as x, in [-1, 1].
    """
    pairs = zip(_numpy(x.clamp(-1, 1)), _numpy(reference), strict=True)
    values = [
        structural_similarity(
            image,
            truth,
            data_range=DATA_RANGE,
            channel_axis=0,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        for image, truth in pairs
    ]
    return torch.tensor(values, dtype=torch.float64)


def _numpy(x: Tensor) -> np.ndarray:
    return x.double().cpu().numpy()


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, mean_2: np.ndarray, covariance_2: np.ndarray
) -> float:
    """Returns the squared Frechet distance of two Gaussians.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is the sum of the roots of
    the eigenvalues of C1^(1/2) C2 C1^(1/2), which stay real and non-negative when the
    covariances are rank-deficient, as they are with fewer images than features.

    Source: Heusel et al. 2017.

    Args:
        mean: (D,) float64.
        covariance: (D, D) float64, symmetric, positive semi-definite.
        mean_2: of the second Gaussian.
        covariance_2: of the second Gaussian.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ covariance_2 @ root)
    trace = np.trace(covariance) + np.trace(covariance_2)
    return float(np.square(mean - mean_2).sum() + trace - 2 * np.sqrt(cross.clip(min=0)).sum())
