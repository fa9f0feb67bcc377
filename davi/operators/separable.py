"""Operators that act on rows and columns apart: A x = K_rows x K_columns^T in every channel."""

import torch
from torch import Tensor

from davi.operators.linear import ImageShape
from davi.operators.svd import SVDOperator

# 1-D singular values below this are not inverted by A_dagger: noise would be amplified by more
# than its inverse squared. DDRM and the release use the same number.
PINV_FLOOR = 3e-2


class SeparableOperator(SVDOperator):
    """A separable linear operator, held as the SVDs of two small 1-D matrices.

    With K = U s V^T for rows and columns, the singular values of A are the outer product of the
    two s, one per pixel, and coefficient (i, j) belongs to columns i and j of the two V.

    Args:
        image_shape: (C, H, W).
        row_matrix: (h, H) float64 matrix acting on the vertical axis, h <= H.
        column_matrix: (w, W) float64 matrix acting on the horizontal axis, w <= W.
        floor: 1-D singular values below it count as 0 in A itself.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        row_matrix: Tensor,
        column_matrix: Tensor,
        *,
        floor: float = 0.0,
    ) -> None:
        super().__init__(image_shape, (image_shape[0], row_matrix.shape[0], column_matrix.shape[0]))
        row_values = self._decompose("rows", row_matrix, floor)
        if torch.equal(row_matrix, column_matrix):
            column_values = row_values
            self.register_buffer("columns_U", self.rows_U)
            self.register_buffer("columns_V", self.rows_V)
        else:
            column_values = self._decompose("columns", column_matrix, floor)
        inverted = torch.outer(row_values >= PINV_FLOOR, column_values >= PINV_FLOOR)
        values = torch.outer(row_values, column_values)
        self._set_singular_values(values, inverted & (values > 0))

    def _decompose(self, name: str, matrix: Tensor, floor: float) -> Tensor:
        """Registers U and V of a 1-D matrix; returns its singular values, padded to V's size."""
        U, values, Vh = torch.linalg.svd(matrix.double(), full_matrices=True)
        self.register_buffer(f"{name}_U", U)
        self.register_buffer(f"{name}_V", Vh.T.contiguous())
        padded = torch.zeros(matrix.shape[1], dtype=torch.float64)
        padded[: len(values)] = torch.where(values >= floor, values, 0.0)
        return padded

    def V_adjoint(self, x: Tensor) -> Tensor:
        """Returns V_rows^T x V_columns, (B, C, H, W)."""
        return self.rows_V.to(x.dtype).T @ x @ self.columns_V.to(x.dtype)

    def V(self, spectrum: Tensor) -> Tensor:
        """Returns V_rows c V_columns^T, (B, C, H, W)."""
        rows, columns = self.rows_V.to(spectrum.dtype), self.columns_V.to(spectrum.dtype)
        return rows @ spectrum @ columns.T

    def U(self, spectrum: Tensor) -> Tensor:
        """Returns U_rows c U_columns^T of the first (h, w) coefficients, (B, C, h, w)."""
        rows, columns = self.rows_U.to(spectrum.dtype), self.columns_U.to(spectrum.dtype)
        return rows @ spectrum[..., : rows.shape[1], : columns.shape[1]] @ columns.T

    def U_adjoint(self, y: Tensor) -> Tensor:
        """Returns U_rows^T y U_columns, zero-padded to (B, C, H, W)."""
        rows, columns = self.rows_U.to(y.dtype), self.columns_U.to(y.dtype)
        height, width = self.image_shape[1:]
        spectrum = y.new_zeros(*y.shape[:-2], height, width)
        spectrum[..., : rows.shape[0], : columns.shape[0]] = rows.T @ y @ columns
        return spectrum
