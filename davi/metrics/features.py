"""Inception features of two sets of images; those of the references are kept for the next time."""

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from davi.data.image_sets import content_digest
from davi.data.images import save_array
from davi.metrics.perceptual import InceptionFeatures
from davi.system.errors import InputError
from davi.system.files import cache_folder, make_folder


class PairedFeatures:
    """Features of references and restorations, row i of both sets belonging to pair i.

    The features of the references are kept in $XDG_CACHE_HOME/davi/features
    (~/.cache/davi/features), by the content of the files and of the network's weights: with
    another image, or other weights, they are computed anew.

    Args:
        digests: SHA-256 of every reference file, in the order of the pairs.
        device: where the network runs.

    Raises:
        InputError: the network's weights are not on disk and cannot be downloaded.
    """

    def __init__(self, digests: list[str], device: torch.device) -> None:
        self._network = InceptionFeatures(device)
        shape = len(digests), self._network.DIMENSION
        # Kernels of another kind of device round differently.
        circumstances = (self._network.weights_sha256, device.type, torch.__version__)
        key = content_digest([circumstances, *((digest,) for digest in digests)])
        self._record = cache_folder("features") / f"{key}.npy"
        remembered = _read(self._record, shape)
        self._is_new = remembered is None
        self._truth = np.empty(shape, np.float32) if self._is_new else remembered
        self._restored = np.empty(shape, np.float32)

    def add(self, indices: list[int], truth: Tensor, restored: Tensor) -> None:
        """Takes in images (B, 3, H, W) in [-1, 1] of the pairs `indices`."""
        if self._is_new:
            self._truth[indices] = self._network(truth)
        self._restored[indices] = self._network(restored)

    def sets(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (N, 2048) float32 of references and restorations, once all pairs are in."""
        if self._is_new:
            # Where they cannot be kept, the next evaluation computes them.
            with contextlib.suppress(InputError, OSError):
                folder = make_folder(self._record.parent)
                save_array(torch.from_numpy(self._truth), folder / self._record.name)
        return self._truth, self._restored


def _read(record: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The features of an earlier evaluation, None if there are none that can be read."""
    try:
        features = np.load(record, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    sound = features.shape == shape and features.dtype == np.float32
    return features if sound else None
