"""How far restorations are from the truth: PSNR and SSIM per image, FID and KID of two sets."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from davi.system.errors import InputError

DATA_RANGE = 2.0  # of images in [-1, 1]
SSIM_WINDOW = 11  # side in pixels of the Gaussian window
SSIM_SIGMA = 1.5
# Wang et al. 2004: constants K1 and K2 against division by zero.
SSIM_LUMINANCE, SSIM_CONTRAST = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
KERNEL_ROWS = 1000  # of a kernel matrix in memory at a time

REACH = 8  # pixels that a blind method may shift an image; half of a kernel of 17 taps
FINE = 0.25  # cycles per pixel, half of the highest frequency that an image can have


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
    channels and all places where the window lies inside the image.

    Args:
        x: (B, C, H, W), sides of at least `SSIM_WINDOW`, clipped to [-1, 1].
        reference: shape as x, in [-1, 1].
    """
    x, y = x.clamp(-1, 1).double(), reference.double()
    mean_x, mean_y = _windowed(x), _windowed(y)
    variances = _windowed(x * x) - mean_x**2 + _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_LUMINANCE) / (mean_x**2 + mean_y**2 + SSIM_LUMINANCE)
    structure = (2 * covariance + SSIM_CONTRAST) / (variances + SSIM_CONTRAST)
    return (luminance * structure).mean(dim=(1, 2, 3))


def detail(x: Tensor, reference: Tensor) -> Tensor:
    """Returns how much fine detail each image has against its reference, in dB, (B,) float64.

    The energy above `FINE` by that of the reference: 0 for photographs themselves, negative for
    smoother images. It does not matter whether the detail is the right one.

    Args:
        x: (B, C, H, W), clipped to [-1, 1].
        reference: shape as x, in [-1, 1].
    """
    height, width = x.shape[-2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :])
    energies = [
        (torch.fft.fft2(image.double()).abs().square() * (frequency > FINE)).sum(dim=(1, 2, 3))
        for image in (x.clamp(-1, 1), reference)
    ]
    return 10 * torch.log10(energies[0] / energies[1])


def aligned_psnr(x: Tensor, reference: Tensor, reach: int = REACH) -> Tensor:
    """Returns the PSNR of each image after its best whole shift, in dB, (B,) float64.

    Every shift is scored on the same pixels of the reference, those `reach` away from its borders,
    so that none gains from what it leaves out.

    Args:
        x: (B, C, H, W), clipped to [-1, 1].
        reference: shape as x, in [-1, 1].
        reach: largest shift in rows and in columns.

    Raises:
        InputError: nothing is left between the borders.
    """
    height, width = (side - 2 * reach for side in reference.shape[-2:])
    if min(height, width) < 1:
        size = "x".join(map(str, reference.shape[-2:]))
        raise InputError(
            f"aligned_psnr: images of {size} are too small for shifts of {reach}; leave it out"
        )
    middle = reference[..., reach : reach + height, reach : reach + width]
    shifts = range(2 * reach + 1)
    scores = [
        psnr(x[..., top : top + height, left : left + width], middle)
        for top in shifts
        for left in shifts
    ]
    return torch.stack(scores).amax(dim=0)


def kernel_similarity(kernel: Tensor, reference: Tensor) -> Tensor:
    """Returns the maximum of normalized convolution (MNC) of each pair of kernels, (B,) float64.

    max over shifts s of sum_i k(i) k'(i + s) / (|k| |k'|), 1 if and only if one is a shift of the
    other times a factor. Source: Hu & Yang 2012, Good Regions to Deblur.

    Args:
        kernel: (B, 1, k, k), not negative.
        reference: (B, 1, k, k).
    """
    kernel, reference = kernel.double(), reference.double()
    # Kernels lie where convolutions have their channels, each a group of its own.
    products = F.conv2d(
        reference.transpose(0, 1), kernel, padding=kernel.shape[-1] - 1, groups=len(kernel)
    )
    lengths = [each.flatten(1).norm(dim=1) for each in (kernel, reference)]
    return products[0].amax(dim=(-2, -1)) / (lengths[0] * lengths[1])


# Of an image and its reference.
IMAGE_SCORES = {"psnr": psnr, "aligned_psnr": aligned_psnr, "ssim": ssim, "detail": detail}


def _windowed(x: Tensor) -> Tensor:
    """Averages under the Gaussian window, wherever it lies inside the image."""
    offsets = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    window = (window / window.sum()).expand(x.shape[1], 1, 1, -1)
    rows = F.conv2d(x, window, groups=x.shape[1])
    return F.conv2d(rows, window.mT, groups=x.shape[1])


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean (D,) and covariance (D, D) of features (N, D), N at least 2, as FID takes them.

    The covariance is that of `np.cov`: divided by N - 1.
    """
    features = features.astype(np.float64)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


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


def kernel_distances(
    features: np.ndarray, features_2: np.ndarray, subsets: np.ndarray, subsets_2: np.ndarray
) -> np.ndarray:
    """Returns the unbiased squared maximum mean discrepancy (KID) of pairs of subsets, (S,).

    sum_{i != j} k(x_i, x_j) / (n (n - 1)) + sum_{i != j} k(y_i, y_j) / (m (m - 1))
    - 2 sum_{i, j} k(x_i, y_j) / (n m), with k(a, b) = (a . b / D + 1)^3.

    Unbiased for independent sets. A restoration resembles its own reference, which lowers the value
    by 2 / n times the mean of k(x_i, y_i) - k(x_i, y_j).

    Source: Binkowski et al. 2018, "Demystifying MMD GANs", with the kernel given there.

    Args:
        features: (N, D).
        features_2: (M, D).
        subsets: (S, N) of ones and zeros, which rows of `features` belong to subset s; at least 2.
        subsets_2: (S, M), likewise of `features_2`.
    """
    n, m = subsets.sum(axis=1), subsets_2.sum(axis=1)
    within = _kernel_sums(features, features, subsets, subsets)
    within -= subsets @ _kernel((features * features).sum(axis=1), features.shape[1])
    within_2 = _kernel_sums(features_2, features_2, subsets_2, subsets_2)
    within_2 -= subsets_2 @ _kernel((features_2 * features_2).sum(axis=1), features.shape[1])
    across = _kernel_sums(features, features_2, subsets, subsets_2)
    return within / (n * (n - 1)) + within_2 / (m * (m - 1)) - 2 * across / (n * m)


def _kernel(products: np.ndarray, dimension: int) -> np.ndarray:
    return (products / dimension + 1) ** 3


def _kernel_sums(
    x: np.ndarray, y: np.ndarray, chosen: np.ndarray, chosen_2: np.ndarray
) -> np.ndarray:
    """For every subset s the sum of k(x_i, y_j) over its i and j, (S,)."""
    sums = np.zeros(len(chosen))
    for start in range(0, len(x), KERNEL_ROWS):
        rows = slice(start, start + KERNEL_ROWS)
        kernel = _kernel(x[rows] @ y.T, x.shape[1])
        sums += ((chosen[:, rows] @ kernel) * chosen_2).sum(axis=1)
    return sums


def kid(
    features: np.ndarray, features_2: np.ndarray, num_subsets: int, seed: int
) -> tuple[float, np.ndarray]:
    """Returns the KID of two sets of features, and that of random halves of them, (num_subsets,).

    A half, drawn without replacement, is on average worth what the whole is, and differs from it
    as much as the whole differs from the truth (variance s / (N / 2) - s / N = s / N), so the
    halves show how far the estimate may be off. Where the two distributions are equal, the
    variance falls faster than 1 / N, and the halves spread too widely.

    Args:
        features: (N, D), N at least 4.
        features_2: (M, D), M at least 4.
        num_subsets: pairs of halves; drawn independently of the two sets.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    sets = [array.astype(np.float64) for array in (features, features_2)]
    subsets = [np.zeros((num_subsets + 1, len(array))) for array in sets]
    for chosen in subsets:
        size = chosen.shape[1]
        chosen[0] = 1
        for row in chosen[1:]:
            row[random.permutation(size)[: size // 2]] = 1
    values = kernel_distances(*sets, *subsets)
    return float(values[0]), values[1:]
