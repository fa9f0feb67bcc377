"""How well the samples of a posterior tell what is not known: scores of ensembles of images.

Samples are (N, B, C, H, W), N at least 2, truths (B, C, H, W), both in [-1, 1]. Everything is
computed in float64 and given for each of the B images.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from davi.metrics.scores import psnr
from davi.operators.inpainting import Inpainting
from davi.operators.operator import Operator
from davi.system.errors import InputError

LEVELS = {"coverage_50": 0.5, "coverage_90": 0.9}  # of central intervals


def widest_level(num_samples: int) -> float:
    """Returns (N - 1) / (N + 1), how often [lowest, highest sample] contains a truth like them."""
    return (num_samples - 1) / (num_samples + 1)


def rank_histogram(samples: Tensor, truth: Tensor) -> Tensor:
    """Returns how many entries have a truth of rank 0 .. N, (B, N + 1) float64.

    The rank is the number of samples below the truth. Where m samples equal the truth, which is
    common among 8-bit values, the entry is spread evenly over the m + 1 ranks that it may have. If
    the truth is exchangeable with the samples, all ranks are equally likely, rounded or not. Sum
    over the images for the histogram of a set.

    Args:
        samples: (N, B, C, H, W).
        truth: (B, C, H, W).

    Raises:
        InputError: fewer than 2 samples, or shapes that do not match.
    """
    _require_ensemble(samples, truth)
    below = (samples < truth).sum(dim=0)
    equal = (samples == truth).sum(dim=0)
    share = 1 / (equal + 1).double()
    counts = [
        (share * ((below <= rank) & (rank <= below + equal))).sum(dim=(1, 2, 3))
        for rank in range(len(samples) + 1)
    ]
    return torch.stack(counts, dim=1)


def covered(ranks: Tensor, level: float) -> Tensor:
    """Returns the coverage of central intervals that a rank histogram tells, (...) float64.

    The interval from the k-th lowest to the k-th highest sample contains the truths of ranks k to
    N - k, which are N + 1 - 2 k of N + 1 equally likely ranks. A level between those of two such
    intervals takes both in proportion, so that truths like the samples are covered as often as the
    level says, for every N. Interpolated quantiles of the samples would be too narrow: of 8
    samples of a Gaussian, those for 90 % contain 72 %.

    Args:
        ranks: (..., N + 1), see `rank_histogram`.
        level: of the interval, in [0, (N - 1) / (N + 1)].

    Raises:
        InputError: the level is above that of the widest interval.
    """
    num_samples = ranks.shape[-1] - 1
    if not 0 <= level <= widest_level(num_samples):
        raise InputError(
            f"intervals of {100 * level:g} %: {num_samples} samples allow levels from 0 to "
            f"{100 * widest_level(num_samples):.1f} %, and 90 % need 19 samples"
        )
    middle, half = (num_samples + 1) / 2, level * (num_samples + 1) / 2
    start = torch.arange(num_samples + 1, dtype=ranks.dtype, device=ranks.device)
    # How much of each rank, as the stretch [rank, rank + 1], lies in the middle.
    inside = (start + 1).clamp(max=middle + half) - start.clamp(min=middle - half)
    return (ranks * inside.clamp(min=0)).sum(dim=-1) / ranks.sum(dim=-1)


def coverage(samples: Tensor, truth: Tensor, level: float) -> Tensor:
    """Returns the share of entries whose truth is in the central interval of a level, (B,).

    See `covered`, also for the levels that N samples allow.
    """
    return covered(rank_histogram(samples, truth), level)


def spread_error(samples: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the spread of the samples and the error of their mean, both root mean squares, (B,).

    The spread is sqrt((N + 1) / N * mean variance), with variances divided by N - 1: for a truth
    like the samples its square is on average that of the error. For a set of images see
    `spread_error_ratio`.

    Source: Fortin et al. 2014, "Why should ensemble spread match the RMSE of the ensemble mean?".
    """
    _require_ensemble(samples, truth)
    samples = samples.double()
    variance = samples.var(dim=0, correction=1).mean(dim=(1, 2, 3))
    error = (samples.mean(dim=0) - truth).square().mean(dim=(1, 2, 3))
    return (variance * (len(samples) + 1) / len(samples)).sqrt(), error.sqrt()


def spread_error_ratio(spread: Tensor, error: Tensor) -> Tensor:
    """Returns the spread/error ratio of a set, (): sqrt(mean spread^2 / mean error^2).

    1 if the truths are like the samples, below 1 if the samples are overconfident. The squares are
    averaged first, since a mean of the ratios of single images is biased.

    Args:
        spread: (B,), see `spread_error`.
        error: (B,).
    """
    return (spread.square().mean() / error.square().mean()).sqrt()


def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Returns the continuous ranked probability score, mean over the entries, (B,).

    mean_i |x_i - truth| - 1/2 mean_ij |x_i - x_j|: that of the N samples as a distribution, not an
    estimate for infinitely many: for truths like the samples it is on average 1 + 1 / N
    times that of infinitely many. Compare methods with equal N. Lower is better; of equal samples
    it is the mean absolute error.

    Source: Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
    Eq. 21.
    """
    _require_ensemble(samples, truth)
    count, samples = len(samples), samples.double()
    error = (samples - truth).abs().mean(dim=0)
    # sum_{i < j} |x_i - x_j| of sorted values: x_(i) is the larger one i - 1 times, the smaller one
    # N - i times.
    weight = torch.arange(1 - count, count, 2, dtype=samples.dtype, device=samples.device)
    distance = torch.tensordot(weight, samples.sort(dim=0).values, dims=1) / count**2
    return (error - distance).mean(dim=(1, 2, 3))


def energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """Returns the energy score of whole images, (B,).

    mean_i |x_i - truth| - 1/2 mean_ij |x_i - x_j| as `crps`, with Euclidean norms over the image,
    divided by sqrt(C H W). It also sees whether the samples are right together, not only each
    entry by itself.

    Source: Gneiting and Raftery 2007, Eq. 22 with beta = 1.
    """
    _require_ensemble(samples, truth)
    vectors = samples.double().flatten(2).transpose(0, 1)
    # Without the expansion of the square, which loses small distances.
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    errors = (vectors - truth.flatten(1)[:, None]).norm(dim=2)
    return (errors.mean(dim=1) - distances.mean(dim=(1, 2)) / 2) / vectors.shape[2] ** 0.5


def measurement_residual(
    samples: Tensor, y: Tensor, operator: Operator, sigma: float | Tensor
) -> Tensor:
    """Returns rms(y - A x) / sigma over the samples and the measured entries of y, (B,).

    On average 1 for the truth itself, and so for true posterior samples under a true prior. Above
    1 the samples miss the measurement, below 1 they fit its noise. No reference is needed.

    Args:
        samples: (N, B, C, H, W).
        y: (B, *measurement_shape); what it has in the hole of inpainting does not count.
        operator: A; inpainting with the mask of each image.
        sigma: deviation of the noise on the [-1, 1] scale, above 0; a number or (B,).
    """
    y, ones = y.double(), torch.ones_like(y, dtype=torch.float64)
    # `project` keeps the hole if there is noise in it.
    is_inpainting = isinstance(operator, Inpainting)
    measured = operator.U(ones) if is_inpainting else operator.project(ones)
    squares = [
        ((y - operator.A(x)) * measured).square().flatten(1).sum(1) for x in samples.double()
    ]
    total = torch.stack(squares).mean(dim=0)
    return (total / measured.flatten(1).sum(dim=1)).sqrt() / sigma


def psnr_of_mean(samples: Tensor, truth: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of the mean of the samples in dB, (B,)."""
    _require_ensemble(samples, truth)
    return psnr(samples.double().mean(dim=0), truth)


_OF_IMAGES = {"crps": crps, "energy_score": energy_score, "psnr_of_mean": psnr_of_mean}


def image_scores(
    metrics: Iterable[str],
    samples: Tensor,
    truth: Tensor,
    ranks: Tensor,
    measured: tuple[Tensor, Operator, float] | None = None,
) -> dict[str, Tensor]:
    """Returns the scores of images by metrics of `davi.system.choices.CALIBRATION`, (B,) each.

    They are named after the metric, but for the "spread" and the "error" of spread_error, which
    `spread_error_ratio` takes.

    Args:
        metrics: some of them.
        samples: (N, B, C, H, W).
        truth: (B, C, H, W).
        ranks: (B, N + 1), the `rank_histogram` of both, for the coverages.
        measured: y, A and sigma of `measurement_residual`, for the residual.
    """
    scores = {}
    for metric in metrics:
        if metric in LEVELS:
            scores[metric] = covered(ranks, LEVELS[metric])
        elif metric == "spread_error":
            scores["spread"], scores["error"] = spread_error(samples, truth)
        elif metric == "residual":
            y, operator, sigma = measured
            # Of gray images, which are read as three equal channels, one.
            channels = samples[:, :, : operator.image_shape[0]]
            scores[metric] = measurement_residual(channels, y, operator, sigma)
        else:
            scores[metric] = _OF_IMAGES[metric](samples, truth)
    return scores


def _require_ensemble(samples: Tensor, truth: Tensor) -> None:
    if samples.ndim != 5 or samples.shape[1:] != truth.shape or len(samples) < 2:
        raise InputError(
            f"samples of shape {tuple(samples.shape)}, truth of {tuple(truth.shape)}: (N, B, C, H, "
            "W) with N at least 2, and (B, C, H, W) are needed"
        )
