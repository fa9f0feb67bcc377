"""The distance of the prior's features ranks changes as is expected of a perceptual one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from davi.data.photos import PhotoCrops
from davi.metrics.prior_features import PriorFeatures

NUM_CROPS = 8


@pytest.fixture(scope="module")
def crops() -> Tensor:
    photos = PhotoCrops("tuning", 64)
    return torch.stack([photos[index] for index in range(0, len(photos), len(photos) // NUM_CROPS)])


@pytest.fixture(scope="module")
def distance() -> PriorFeatures:
    return PriorFeatures(torch.device("cpu"))


def blurred(x: Tensor, deviation: float) -> Tensor:
    offsets = torch.arange(-8.0, 9)
    window = torch.exp(-(offsets**2) / (2 * deviation**2))
    window = (window / window.sum()).expand(3, 1, 1, -1)
    padded = F.pad(x, (8, 8, 8, 8), mode="reflect")
    return F.conv2d(F.conv2d(padded, window, groups=3), window.mT, groups=3)


def noisy(x: Tensor, deviation: Tensor) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return x + deviation * torch.randn(x.shape, generator=rng)


def blurred_until(x: Tensor, error: Tensor) -> Tensor:
    """Blurs each crop until its mean square error is the wanted one, (B, 1, 1, 1)."""
    results = []
    for image, wanted in zip(x.split(1), error, strict=True):
        low, high = 0.1, 5.0
        for _ in range(12):
            middle = (low + high) / 2
            too_sharp = (blurred(image, middle) - image).square().mean() < wanted
            low, high = (middle, high) if too_sharp else (low, middle)
        results.append(blurred(image, low))
    return torch.cat(results)


def test_changes_of_equal_error_are_ranked_by_how_they_look(
    crops: Tensor, distance: PriorFeatures
) -> None:
    """Sharp images of the same things are nearest, then noisy ones, then blurred ones."""
    shifted = crops.roll(1, dims=3)
    error = (shifted - crops).square().mean(dim=(1, 2, 3), keepdim=True)
    changed = {
        "shifted": shifted,
        "brighter": crops + error.sqrt(),
        "noisy": noisy(crops, error.sqrt()),
        "blurred": blurred_until(crops, error),
    }
    means = {name: distance(image, crops).mean().item() for name, image in changed.items()}
    assert max(means["shifted"], means["brighter"]) < 0.8 * means["noisy"]
    assert means["noisy"] < 0.8 * means["blurred"]


def test_the_distance_grows_with_blur_and_noise(crops: Tensor, distance: PriorFeatures) -> None:
    strengths = (0.0, 0.5, 1.0, 2.0)
    blur = [distance(blurred(crops, max(each, 0.1)), crops).mean().item() for each in strengths]
    noise = [
        distance(noisy(crops, torch.tensor(0.1 * each)), crops).mean().item() for each in strengths
    ]
    for values in (blur, noise):
        assert values[0] == pytest.approx(0, abs=1e-6)
        assert values == sorted(values)


def test_gray_images_are_compared_as_gray_colours(crops: Tensor, distance: PriorFeatures) -> None:
    gray = crops[:2, :1]
    colours = [each.expand(-1, 3, -1, -1) for each in (gray, gray.flip(3))]
    torch.testing.assert_close(distance(gray, gray.flip(3)), distance(*colours))


def test_any_size_has_a_distance_of_each_pair_alone(crops: Tensor, distance: PriorFeatures) -> None:
    x, reference = crops[:2, :, :50, :61], crops[2:4, :, :50, :61]
    each = [distance(x[index : index + 1], reference[index : index + 1]) for index in range(2)]
    torch.testing.assert_close(distance(x, reference), torch.cat(each), rtol=1e-4, atol=1e-7)
