"""LPIPS and Inception features; both need weights that the libraries download on first use.

Where a download is impossible the message names the file and the place to put it.
"""

import contextlib
import io
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from davi.metrics.protocols import LPIPS_VARIANTS
from davi.system.errors import InputError
from davi.system.files import make_folder, sha256_of

DOWNLOAD_TIMEOUT = 20.0  # seconds without an answer
# What torchvision and pytorch-fid download: file name, size, where from. A name ends with the
# first digits of the file's SHA-256.
WEIGHT_FILES = {
    "vgg": ("vgg16-397923af.pth", "528 MB", "torchvision's VGG16_Weights.IMAGENET1K_V1"),
    "alex": ("alexnet-owt-7be5be79.pth", "233 MB", "torchvision's AlexNet_Weights.IMAGENET1K_V1"),
    "inception": (
        "pt_inception-2015-12-05-6726825d.pth",
        "91 MB",
        "release fid_weights of the pytorch-fid project",
    ),
}


def weight_path(name: str) -> Path:
    """Returns where the weights of "vgg", "alex" or "inception" are looked for."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHT_FILES[name][0]


@contextlib.contextmanager
def _weights_of(name: str) -> Iterator[None]:
    """Lets a library load or download its weights; a failure becomes an InputError.

    The libraries unpickle these files, so one whose hash is not that of the original is refused.
    """
    file, size, source = WEIGHT_FILES[name]
    path = weight_path(name)
    digits = path.stem.rsplit("-", 1)[1]
    if path.exists() and not sha256_of(path).startswith(digits):
        raise InputError(
            f"{path}: damaged or another file (its SHA-256 does not begin with {digits}); get "
            f"{file} ({size}, {source}) again"
        )
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    except (OSError, RuntimeError) as error:  # no network, or a download with a wrong hash
        raise InputError(
            f"weights of {name} are not on disk and cannot be downloaded ({error}): put {file} "
            f"({size}, {source}) at {path}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


class Lpips:
    """Learned perceptual distance.

    Args:
        variant: one of `davi.metrics.protocols.LPIPS_VARIANTS`. "release" leaves out the shift and
            scaling that the networks were trained with.
        device: where it runs.

    Raises:
        InputError: the weights are not on disk and cannot be downloaded.
    """

    def __init__(self, variant: str, device: torch.device) -> None:
        import lpips

        net, _ = LPIPS_VARIANTS[variant]
        self.device = device
        with _weights_of(net), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # lpips calls torchvision's old interface
            self.model = lpips.LPIPS(net=net, verbose=False).to(device).eval()
        if variant == "release":
            self.model.scaling_layer = nn.Identity()

    @torch.no_grad()
    def __call__(self, x: Tensor, reference: Tensor) -> Tensor:
        """Returns the distance of each pair, (B,) float64, for images (B, 3, H, W) in [-1, 1]."""
        distance = self.model(x.to(self.device), reference.to(self.device))
        return distance.flatten().double()


class InceptionFeatures:
    """Pool features of pytorch-fid's Inception network.

    Args:
        device: where it runs.

    Attributes:
        weights_sha256: of the file with its weights.

    Raises:
        InputError: the weights are not on disk and cannot be downloaded.
    """

    DIMENSION = 2048

    def __init__(self, device: torch.device) -> None:
        from pytorch_fid.inception import FID_WEIGHTS_URL, InceptionV3

        self.device = device
        block = InceptionV3.BLOCK_INDEX_BY_DIM[self.DIMENSION]
        with _weights_of("inception"):
            path = weight_path("inception")
            if not path.exists():  # pytorch-fid would unpickle what it gets without a look at it
                digits = path.stem.rsplit("-", 1)[1]
                make_folder(path.parent)
                torch.hub.download_url_to_file(FID_WEIGHTS_URL, str(path), hash_prefix=digits)
            self.model: nn.Module = InceptionV3([block]).to(device).eval()
        self.weights_sha256 = sha256_of(weight_path("inception"))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> np.ndarray:
        """Returns (B, 2048) float32 features of images (B, 3, H, W) in [-1, 1]."""
        features = self.model((x.to(self.device) + 1) / 2)[0]
        return features.flatten(1).cpu().numpy()
