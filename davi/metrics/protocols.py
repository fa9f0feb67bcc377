"""What exactly a number in a table of scores is, in words and as settings for programs."""

from dataclasses import dataclass
from typing import Any

from davi.metrics.ensembles import LEVELS
from davi.metrics.prior_features import PRIOR, TIME, version
from davi.metrics.scores import FINE, REACH, SSIM_SIGMA, SSIM_WINDOW


@dataclass(frozen=True)
class Protocol:
    """How a metric was computed.

    Attributes:
        text: one line for a reader.
        settings: what another protocol of the same metric does otherwise, as plain JSON values.
    """

    text: str
    settings: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Returns both as one mapping."""
        return {"text": self.text, **self.settings}


# How the restored images became files.
SAVED_AS = {
    "nearest": "restored files rounded to the nearest of 256 levels",
    "truncate": "restored files truncated to the level below, as the release saves them",
    "unknown": "restored files with 8 bits, rounded in a way that is not recorded",
    "other": "restored files with 16 bits, or in the format of their input",
}
# Name: (network of the lpips package, how its input is prepared).
LPIPS_VARIANTS = {
    "release": ("vgg", "inputs in [-1, 1] not normalised, as the release calls piq"),
    "vgg": ("vgg", "inputs in [-1, 1] normalised by the package"),
    "alex": ("alex", "inputs in [-1, 1] normalised by the package"),
}
SSIM = Protocol(
    "SSIM: Wang et al. 2004, Gaussian window of sigma 1.5, mean over channels",
    {"window": SSIM_WINDOW, "sigma": SSIM_SIGMA, "covariance": "population"},
)
ALIGNED_PSNR = Protocol(
    f"aligned PSNR: the largest after shifts of up to {REACH} whole pixels in rows and columns, "
    f"without the outer {REACH} pixels of the reference, dB per image, mean over images",
    {"reach": REACH},
)
DETAIL = Protocol(
    f"detail: energy at frequencies above {FINE:g} cycles per pixel against that of the reference, "
    "dB per image, mean over images; 0 for photographs themselves, negative for smoother images",
    {"above": FINE},
)
FID = Protocol(
    "FID: pytorch-fid Inception weights, 2048 features, Frechet distance in float64",
    {"network": "pytorch-fid", "features": 2048, "covariance": "N - 1"},
)
# Scores of several samples of every image, see `davi.metrics.ensembles`.
CALIBRATION = {
    **{
        name: Protocol(
            f"{name}: share of values whose truth is in the central {100 * level:g} % interval of "
            f"the samples, {level:g} for true posterior samples; samples rounded to 8 bits, ties "
            "shared evenly",
            {"level": level, "ties": "shared evenly"},
        )
        for name, level in LEVELS.items()
    },
    "spread_error": Protocol(
        "spread_error: spread of the samples over the error of their mean, root mean squares of "
        "all images, with the correction (N + 1) / N, 1 for true posterior samples and below 1 if "
        "overconfident; samples rounded to 8 bits",
        {"correction": "(N + 1) / N", "pooled": True},
    ),
    "crps": Protocol(
        "CRPS: continuous ranked probability score of the N samples as a distribution, mean over "
        "values on the [-1, 1] scale, lower is better, to be compared at equal N only; samples "
        "rounded to 8 bits",
        {"form": "ensemble"},
    ),
    "energy_score": Protocol(
        "energy score: as CRPS with the Euclidean norm of whole images, divided by the root of the "
        "number of values, lower is better, to be compared at equal N only; samples rounded to 8 "
        "bits",
        {"form": "ensemble", "beta": 1},
    ),
    "residual": Protocol(
        "residual: rms(y - A x) / sigma over the measured values and the samples, 1 for true "
        "posterior samples, above 1 if they miss the measurement; samples rounded to 8 bits",
        {"norm": "rms"},
    ),
    "psnr_of_mean": Protocol(
        "PSNR of the mean: dB per image of the mean of the samples, mean over images; samples "
        "rounded to 8 bits",
        {"mean": "of the samples"},
    ),
}


def psnr_protocol(rounding: str) -> Protocol:
    """Returns the protocol of PSNR on files that were rounded in one of the `SAVED_AS`."""
    text = "PSNR: dB per image over all channels, mean over images; "
    return Protocol(text + SAVED_AS[rounding], {"rounding": rounding})


def lpips_protocol(variant: str) -> Protocol:
    """Returns the protocol of one of the `LPIPS_VARIANTS`."""
    net, inputs = LPIPS_VARIANTS[variant]
    return Protocol(
        f"LPIPS {variant}: weights 0.1 of the lpips package, {net}, {inputs}",
        {"variant": variant, "net": net, "normalised": variant != "release"},
    )


def prior_features_protocol() -> Protocol:
    """Returns the protocol of the distance of `PriorFeatures`."""
    return Protocol(
        f"prior features: distance in the middle blocks of the UNet of {PRIOR.stem} ({version()}) "
        f"at t = {TIME}, features of length 1, lower is better, to be compared at equal prior only",
        {"prior": version(), "time": TIME},
    )


def kid_protocol(num_images: int, num_subsets: int, seed: int) -> Protocol:
    """Returns the protocol of KID with an interval from random halves of the images."""
    size = num_images // 2
    return Protocol(
        "KID: features of FID, unbiased MMD^2, kernel (x.y / 2048 + 1)^3, all images; error and "
        f"95 % interval from {num_subsets} random subsets of {size} images of each set",
        {
            "network": "pytorch-fid",
            "features": 2048,
            "kernel": {"degree": 3, "gamma": "1 / features", "coefficient": 1},
            "subset_size": size,
            "num_subsets": num_subsets,
            "seed": seed,
        },
    )
