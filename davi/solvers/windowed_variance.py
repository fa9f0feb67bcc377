"""When to stop an iteration that fits the image first and the noise later, without the truth."""

import torch
from torch import Tensor


class WindowedVariance:
    """Watches a batch of sequences of images, each by itself.

    The variance of the last W images of a sequence falls while it converges and rises when it turns
    to the noise. Once it has not fallen for P images, the sequence is stopped.

    Source: Wang et al. 2023, Early Stopping for Deep Image Prior, ES-WMV. Holds W images of each
    sequence.

    Args:
        like: (B, ...) gives shape, dtype and device of the images.
        window: W.
        patience: P.
        min_iterations: windows that end before this image (the first is 1) do not count: an
            iteration that begins slowly has a small variance there, too.
        improvement: share by which a variance must fall below the minimum to be a new one.

    Attributes:
        variance: (B,) of the window, mean over pixels; infinite until one counts.
        least: (B,) its minimum so far.
        best: (B, ...) the newest image of the window with the least variance; the newest image
            of all until a window counts.
        stopped: (B,) bool; stays true, and best stays as it is.
    """

    def __init__(
        self,
        like: Tensor,
        window: int,
        patience: int,
        min_iterations: int = 0,
        improvement: float = 0.0,
    ) -> None:
        self.patience, self.improvement = patience, improvement
        self.num_needed = max(window, min_iterations)
        self._images = torch.zeros(window, *like.shape, dtype=like.dtype, device=like.device)
        self._count = 0
        self.best = torch.zeros_like(self._images[0])
        self.variance = self.least = like.new_full((len(like),), torch.inf)
        self._since_least = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        self.stopped = torch.zeros(len(like), dtype=torch.bool, device=like.device)

    def push(self, images: Tensor) -> None:
        """Takes the next image of every sequence, (B, ...)."""
        self._images[self._count % len(self._images)] = images
        self._count += 1
        if self._count < self.num_needed:
            self.best = images.clone()
            return
        self.variance = self._images.var(dim=0, correction=0).flatten(1).mean(dim=1)
        needed = self.least * (1 - self.improvement)
        improved = (self.variance < needed) & ~self.stopped
        self.least = torch.where(improved, self.variance, self.least)
        self.best[improved] = images[improved]
        self._since_least = torch.where(improved, 0, self._since_least + 1)
        self.stopped = self.stopped | (self._since_least >= self.patience)
