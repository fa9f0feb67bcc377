"""The contract of every operator: A = U diag(s) V^T, given by its parts.

Names are those of deepinv. Spectral tensors keep an image-like shape: `V_adjoint(x)` has one
coefficient per pixel, `singular_values` broadcasts against it and is 0 where A sees nothing, so
no order of coefficients has to be agreed upon.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.system.errors import InputError


class SVDOperator(LinearOperator):
    """A linear operator on images, known by its singular value decomposition.

    A subclass gives `U`, `U_adjoint`, `V`, `V_adjoint` and calls `_set_singular_values`. Images
    are (B, C, H, W) in [-1, 1]; operators hold no trainable weights and follow `.to(device)`.
    Factors are float64 and are used in the dtype of the input. `A`, `A_adjoint` and `A_dagger`
    follow from the four; a subclass overrides those that have a faster direct form.

    Args:
        image_shape: (C, H, W) of the images.
        measurement_shape: shape of one measurement, without batch.
    """

    singular_values: Tensor  # broadcasts against V_adjoint(x)
    inverse_singular_values: Tensor  # 1 / s where A_dagger inverts, else 0

    def _set_singular_values(self, values: Tensor, inverted: Tensor | None = None) -> None:
        """Registers s, and 1 / s where `inverted` is true (default: wherever s > 0)."""
        if values.is_complex():
            raise InputError(
                f"{type(self).__name__}: singular values are complex; real ones of at least 0 are "
                "needed"
            )
        inverted = values > 0 if inverted is None else inverted
        inverse = torch.where(inverted, 1 / values, 0.0)
        self.register_buffer("singular_values", values)
        self.register_buffer("inverse_singular_values", inverse)

    @abstractmethod
    def U(self, spectrum: Tensor) -> Tensor:
        """Returns the measurement (B, *measurement_shape) with the given coefficients."""

    @abstractmethod
    def U_adjoint(self, y: Tensor) -> Tensor:
        """Returns the coefficients of a measurement, 0 where A sees nothing."""

    @abstractmethod
    def V(self, spectrum: Tensor) -> Tensor:
        """Returns the image (B, C, H, W) with the given coefficients; the inverse of V_adjoint."""

    @abstractmethod
    def V_adjoint(self, x: Tensor) -> Tensor:
        """Returns the coefficients of an image, as many as it has pixels."""

    def A(self, x: Tensor) -> Tensor:
        """Returns the noiseless measurement (B, *measurement_shape) of images (B, C, H, W)."""
        return self.U(self.singular_values.to(x.dtype) * self.V_adjoint(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Returns A^T y, an image (B, C, H, W)."""
        return self.V(self.singular_values.to(y.dtype) * self.U_adjoint(y))

    def A_dagger(self, y: Tensor) -> Tensor:
        """Returns the pseudo-inverse A^+ y, an image (B, C, H, W)."""
        return self.V(self.inverse_singular_values.to(y.dtype) * self.U_adjoint(y))

    def least_squares(self, y: Tensor, rho: float) -> Tensor:
        """Returns argmin_x |y - A x|^2 + rho |x|^2, (B, C, H, W), exactly.

        Singular values that are rounding errors beside the largest one count as 0.
        """
        values = self.singular_values
        values = values * (values > torch.finfo(y.dtype).eps * values.max())
        gain = values / (values.square() + rho)
        return self.V(gain.to(y.dtype) * self.U_adjoint(y))
