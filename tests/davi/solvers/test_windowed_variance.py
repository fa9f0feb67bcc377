"""Early stopping by the variance of a window, on sequences whose variance is known."""

import pytest
import torch
from torch import Tensor

from davi.solvers.windowed_variance import WindowedVariance

IMAGE = (3, 2, 2)


def watch(
    sequences: Tensor, window: int, patience: int, **options: float
) -> tuple[WindowedVariance, list[int]]:
    """Pushes (T, B) gray values; returns the watcher and how many images each sequence saw."""
    like = torch.zeros(sequences.shape[1], *IMAGE).double()
    watcher = WindowedVariance(like, window, patience, **options)
    lengths = torch.zeros(sequences.shape[1], dtype=torch.int64)
    for values in sequences:
        lengths += ~watcher.stopped
        watcher.push(values.view(-1, 1, 1, 1).expand(-1, *IMAGE))
    return watcher, lengths.tolist()


def shown(images: Tensor) -> list[float]:
    """The gray value of each image."""
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def test_a_constant_sequence_has_no_variance() -> None:
    watcher, _ = watch(torch.full((7, 1), 0.3).double(), window=4, patience=100)
    assert watcher.variance.item() == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize("window", [2, 5, 10])
def test_the_variance_of_a_drift(window: int) -> None:
    """Equidistant values: delta^2 (W^2 - 1) / 12."""
    delta = 0.01
    drift = delta * torch.arange(20).double()[:, None]
    watcher, _ = watch(drift, window, patience=100)
    assert watcher.variance.item() == pytest.approx(delta**2 * (window**2 - 1) / 12)


def test_the_variance_is_a_mean_over_pixels(rng: torch.Generator) -> None:
    images = torch.randn(5, 2, *IMAGE, generator=rng)
    watcher = WindowedVariance(images[0], window=3, patience=100)
    for image in images:
        watcher.push(image)
    last = images[2:]
    expected = (last - last.mean(dim=0)).square().mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(watcher.variance, expected)


def slowing_then_running(slowest: int, length: int) -> Tensor:
    """Gray values (length,) whose steps shrink until number `slowest`, and grow again.

    The next step is the second shortest.
    """
    speed = (torch.arange(length).double() - slowest - 0.25).abs()
    return speed.cumsum(dim=0)


def test_a_sequence_stops_patience_after_its_minimum_and_returns_it() -> None:
    sequence = slowing_then_running(slowest=10, length=40)[:, None]
    window, patience = 3, 5
    minimum = int(sequence.squeeze().unfold(0, window, 1).var(dim=1).argmin()) + window - 1
    assert minimum == 11  # the window of images 9, 10 and 11 has the two shortest steps
    watcher, (length,) = watch(sequence, window, patience)
    assert length == minimum + patience + 1
    assert shown(watcher.best) == [sequence[minimum].item()]


def test_a_slow_beginning_is_no_minimum() -> None:
    """Small but growing steps first, then those of a sequence with a minimum of its own."""
    start = 1e-4 * torch.arange(8).double().square()
    sequence = torch.cat([start, 1 + slowing_then_running(slowest=10, length=40)])[:, None]
    (early,) = watch(sequence, window=3, patience=12)[1]
    assert early == 3 + 12  # the minimum is within the first three images
    for at_least in (11, 12):
        watcher, (length,) = watch(sequence, window=3, patience=12, min_iterations=at_least)
        assert shown(watcher.best) == [sequence[8 + 11].item()]
        assert length == 8 + 11 + 12 + 1


def test_the_first_window_that_counts_ends_at_min_iterations() -> None:
    drift = torch.arange(9).double()[:, None]  # of constant variance: the first stays the least
    watcher, (length,) = watch(drift, window=3, patience=2, min_iterations=6)
    assert shown(watcher.best) == [5.0]
    assert length == 6 + 2


def test_only_a_large_enough_fall_is_a_new_minimum() -> None:
    """Steps of 0.97^n: each variance is 0.97^2 = 0.941 of the last, the sixth 0.694."""
    sequence = (0.97 ** torch.arange(29).double()).cumsum(dim=0)[:, None]
    for improvement, best in ((0.0, 28), (0.05, 28), (0.06, 27), (0.3, 25)):
        watcher, _ = watch(sequence, window=2, patience=100, improvement=improvement)
        assert shown(watcher.best) == [sequence[best].item()]


def test_until_the_window_is_full_the_newest_image_is_the_best() -> None:
    watcher, _ = watch(torch.arange(4).double()[:, None], window=5, patience=1)
    assert shown(watcher.best) == [3.0]
    assert watcher.variance.isinf().all()
    assert not watcher.stopped.any()


def test_each_sequence_is_judged_by_itself_and_stays_stopped() -> None:
    early, late = slowing_then_running(5, 40), slowing_then_running(20, 40)
    early[30:] = 7.0  # a variance of 0 after the end is no reason to begin anew
    both, lengths = watch(torch.stack([early, late], dim=1), window=3, patience=4)
    for index, sequence in enumerate([early, late]):
        alone, length = watch(sequence[:, None], window=3, patience=4)
        assert length == [lengths[index]]
        assert shown(alone.best) == [shown(both.best)[index]]
    assert both.stopped.all()
    assert lengths == [11, 26]
