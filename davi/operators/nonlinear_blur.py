"""Motion blur as a camera takes it: light is averaged, cut off where it is too bright, and bent."""

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.operators.operator import ImageShape, Operator
from davi.system.runtime import keyed_rng

OFFSET = 0.01  # c of the response; 0 would have an infinite slope at black
NUM_WAVES = 3  # of the path, which so stays smooth


class NonlinearBlur(Operator):
    """A x = 2 e(min(gain B d(u), d(1))) - 1, u = (x + 1) / 2: an exposure on a moving camera.

    d(u) = (u + c)^gamma - c^gamma is the light of a grey level, e its inverse. B u is the mean of
    the image as seen from the poses of the camera: shifted, and turned about its centre, with
    bilinear interpolation; what lies beyond the border is as the border. The path of the poses is
    drawn from the seed, smooth and centred. With rotation every place has its own blur.

    Source: data of deblurring are made like this of the frames of a film (Nah et al. 2017, GOPRO).

    Args:
        image_shape: (C, H, W).
        num_poses: of the camera in one exposure.
        extent: root mean square of the shifts, in pixels.
        rotation: root mean square of the turns, in degrees.
        gamma: of the response.
        gain: of the light; above 1 highlights are burnt out.
        seed: of the path.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        num_poses: int = 15,
        extent: float = 2.8,
        rotation: float = 2.0,
        gamma: float = 2.2,
        gain: float = 1.5,
        seed: int = 0,
    ) -> None:
        super().__init__(image_shape, image_shape)
        self.gamma, self.gain = gamma, gain
        path = camera_path(num_poses, seed) * torch.tensor([extent, extent, rotation]).double()
        self.register_buffer("grid", pose_grid(path, *image_shape[1:]), persistent=False)

    def A(self, x: Tensor) -> Tensor:
        """Returns the exposures (B, C, H, W); light below black counts as none."""
        light = self.gain * self.average(self.light((x + 1) / 2))
        full = self.light(x.new_ones(()))
        return 2 * self.grey(torch.minimum(light, full)) - 1

    def A_dagger(self, y: Tensor) -> Tensor:
        """Returns y with the gain undone, as blurred as it is; burnt highlights stay too dark."""
        return 2 * self.grey(self.light((y + 1) / 2) / self.gain) - 1

    def average(self, light: Tensor) -> Tensor:
        """Returns B of images (B, C, H, W): their mean over the poses."""
        poses = len(self.grid)
        images = light.reshape(1, -1, *light.shape[2:]).expand(poses, -1, -1, -1)
        seen = F.grid_sample(
            images, self.grid.to(light.dtype), padding_mode="border", align_corners=False
        )
        return seen.mean(dim=0).view_as(light)

    def light(self, grey: Tensor) -> Tensor:
        """Returns d of grey levels, 0 for black."""
        return (grey.clamp(min=0) + OFFSET) ** self.gamma - OFFSET**self.gamma

    def grey(self, light: Tensor) -> Tensor:
        """Returns e of light: the grey level."""
        return (light + OFFSET**self.gamma) ** (1 / self.gamma) - OFFSET


def camera_path(num_poses: int, seed: int) -> Tensor:
    """Returns a random path (num_poses, 3) float64 of a horizontal and a vertical shift and a turn.

    Each is a sum of a few cosines over the exposure, with mean 0. The shifts have together, and the
    turns alone, a mean square of 1, or of 0 if there is one pose.
    """
    time = (torch.arange(num_poses, dtype=torch.float64) + 0.5) / num_poses
    frequencies = torch.arange(1, NUM_WAVES + 1, dtype=torch.float64)
    rng = keyed_rng("cpu", "camera path", seed)
    weights = torch.randn(NUM_WAVES, 3, generator=rng, dtype=torch.float64)
    path = torch.cos(torch.pi * time[:, None] * frequencies) @ (weights / frequencies[:, None])
    path = path - path.mean(dim=0)
    squares = path.square().mean(dim=0)
    size = torch.stack([squares[:2].sum(), squares[:2].sum(), squares[2]]).sqrt()
    return path / size if num_poses > 1 else torch.zeros_like(path)


def pose_grid(path: Tensor, height: int, width: int) -> Tensor:
    """Returns where each pixel looks, (poses, H, W, 2) float64 as `grid_sample` takes it.

    Args:
        path: (poses, 3) of shifts to the right and down in pixels and turns in degrees.
        height: of the image.
        width: of the image.
    """
    rows, columns = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    shift_x, shift_y, turn = (each.view(-1, 1, 1) for each in path.unbind(dim=1))
    cos, sin = torch.cos(torch.deg2rad(turn)), torch.sin(torch.deg2rad(turn))
    seen_x = cos * x - sin * y + shift_x
    seen_y = sin * x + cos * y + shift_y
    return torch.stack([2 * seen_x / width, 2 * seen_y / height], dim=-1)
