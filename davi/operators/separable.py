"""Operators that act on rows and columns apart: A x = K_rows x K_columns^T in every channel."""

import torch
from torch import Tensor

from davi.operators.operator import ImageShape
from davi.operators.svd import SVDOperator

# 1-D singular values below this are not inverted by A_dagger: noise would be amplified by more
# than its inverse squared. DDRM and the release use the same number.
PINV_FLOOR = 3e-2


class SeparableOperator(SVDOperator):
    """A separable linear operator, held as two small 1-D matrices and their SVDs.

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
            for part in ("U", "V", "matrix", "dagger"):
                shared = getattr(self, f"rows_{part}")
                self.register_buffer(f"columns_{part}", shared, persistent=part in "UV")
        else:
            column_values = self._decompose("columns", column_matrix, floor)
        inverted = torch.outer(row_values >= PINV_FLOOR, column_values >= PINV_FLOOR)
        values = torch.outer(row_values, column_values)
        self._set_singular_values(values, inverted & (values > 0))

    def _decompose(self, name: str, matrix: Tensor, floor: float) -> Tensor:
        """Registers K, U, V and K^+ of a 1-D matrix.

        Returns:
            Its singular values, padded to V's size.
        """
        U, values, Vh = torch.linalg.svd(matrix.double(), full_matrices=True)
        V, count = Vh.T.contiguous(), len(values)
        values = torch.where(values >= floor, values, 0.0)
        inverse = torch.where(values >= PINV_FLOOR, 1 / values, 0.0)
        kept = matrix.double() if floor == 0 else U * values @ Vh[:count]
        self.register_buffer(f"{name}_U", U)
        self.register_buffer(f"{name}_V", V)
        self.register_buffer(f"{name}_matrix", kept, persistent=False)
        dagger = V[:, :count] * inverse @ U.T
        self.register_buffer(f"{name}_dagger", dagger, persistent=False)
        padded = torch.zeros(matrix.shape[1], dtype=torch.float64)
        padded[:count] = values
        return padded

    def A(self, x: Tensor) -> Tensor:
        """Returns K_rows x K_columns^T, (B, C, h, w)."""
        return _both_sides(self.rows_matrix, x, self.columns_matrix)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Returns K_rows^T y K_columns, (B, C, H, W)."""
        return _both_sides(self.rows_matrix.T, y, self.columns_matrix.T)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Returns K_rows^+ y (K_columns^+)^T, (B, C, H, W)."""
        return _both_sides(self.rows_dagger, y, self.columns_dagger)

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


def _both_sides(rows: Tensor, image: Tensor, columns: Tensor) -> Tensor:
    """Rows times image times columns^T, in the dtype of the image."""
    return rows.to(image.dtype) @ image @ columns.to(image.dtype).T
