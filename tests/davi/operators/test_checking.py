"""The check of decompositions names what is wrong with one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from davi.build import build_operator
from davi.config.problem import CustomOperatorConfig
from davi.operators.checking import check_svd
from davi.operators.denoising import Denoising
from davi.operators.svd import SVDOperator
from davi.system.errors import InputError
from tests.davi.operators.test_operators import OPERATORS, SHAPES

IMAGE = (3, 8, 8)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_shipped_decompositions_are_some(name: str) -> None:
    for shape in SHAPES:
        check_svd(OPERATORS[name](shape))


class Halved(SVDOperator):
    """A x = x / 2, right in everything; what is wrong is up to its subclasses."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape, shape)
        self._set_singular_values(torch.full((1, 1, 1), 0.5))

    def U(self, spectrum: Tensor) -> Tensor:
        return spectrum

    def U_adjoint(self, y: Tensor) -> Tensor:
        return y

    def V(self, spectrum: Tensor) -> Tensor:
        return spectrum

    def V_adjoint(self, x: Tensor) -> Tensor:
        return x


def fourier(x: Tensor) -> Tensor:
    return torch.fft.fft2(x, norm="ortho")


def mixed(x: Tensor, sign: float) -> Tensor:
    """Adds the second channel to the first, or takes it away."""
    return torch.cat([x[:, :1] + sign * x[:, 1:2], x[:, 1:]], dim=1)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        # As of deepinv's Decolorize: as few coefficients as there are measured values.
        (
            {"V_adjoint": lambda x: x.mean(dim=1, keepdim=True)},
            r"Wrong.V_adjoint returns \(2, 1, 8, 8\), \(2, 3, 8, 8\) is needed",
        ),
        # As of its BlurFFT: one more axis for real and imaginary parts.
        (
            {"V_adjoint": lambda x: torch.view_as_real(fourier(x))},
            r"Wrong.V_adjoint returns \(2, 3, 8, 8, 2\)",
        ),
        ({"V_adjoint": fourier}, "Wrong.V_adjoint returns complex numbers"),
        ({"V": lambda c: c.reshape(-1, 5)}, r"Wrong.V fails for \(2, 3, 8, 8\)"),
        ({"V_adjoint": lambda x: 2 * x, "V": lambda c: c / 2}, r"\|V_adjoint\(x\)\| is not \|x\|"),
        ({"V": lambda c: c.flip(-1)}, r"Wrong: V\(V_adjoint\(x\)\) is not x"),
        ({"U": lambda c: 2 * c}, r"Wrong: U_adjoint\(U\(c\)\) where s > 0 is not c"),
        ({"A": lambda x: x}, r"Wrong: A is not U\(s V_adjoint\(x\)\)"),
        ({"A_adjoint": lambda y: y}, "Wrong: A_adjoint is not V"),
        ({"A_dagger": lambda y: y}, "Wrong: A_dagger is not V"),
        # U_adjoint inverts U, but is not its transpose.
        (
            {"U": lambda c: mixed(c, 1.0), "U_adjoint": lambda y: mixed(y, -1.0)},
            "Wrong: <A x, y> and <x, A.T y> differ",
        ),
    ],
)
def test_what_is_wrong_is_named(
    methods: dict[str, Callable[[Tensor], Tensor]], message: str
) -> None:
    check_svd(Halved(IMAGE))
    wrong = type("Wrong", (Halved,), {name: staticmethod(f) for name, f in methods.items()})
    with pytest.raises(InputError, match=message):
        check_svd(wrong(IMAGE))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.full((1, 1, 1), -0.5), "at least 0"),
        (torch.full((1, 1, 1), torch.nan), "at least 0"),
        (torch.full((3, 1, 1), 0.5 + 0.5j), "at least 0"),
        (torch.full((3, 4, 4), 0.5), r"\(3, 4, 4\) does not broadcast to \(2, 3, 8, 8\)"),
        (torch.full((5, 1, 3, 1, 1), 0.5), "does not broadcast"),
    ],
)
def test_singular_values_must_be_some(values: Tensor, message: str) -> None:
    operator = Denoising(IMAGE)
    operator.singular_values = values
    with pytest.raises(InputError, match=f"Denoising.singular_values.*{message}"):
        check_svd(operator)


def test_an_operator_of_the_users_is_checked_before_the_work(tmp_path: Path) -> None:
    path = tmp_path / "mean.py"
    text = Path(__file__).read_text()
    body = text[text.index("class Halved") : text.index("def fourier")]
    head = "import torch\nfrom torch import Tensor\nfrom davi.operators.svd import SVDOperator\n\n"
    path.write_text(head + body)
    config = CustomOperatorConfig(name="custom", file=str(path))
    assert build_operator(config, IMAGE).image_shape == IMAGE
    path.write_text(head + body.replace("return x\n", "return x[:, :1]\n"))
    with pytest.raises(InputError, match=r"Halved.V_adjoint returns \(2, 1, 8, 8\)"):
        build_operator(config, IMAGE)
