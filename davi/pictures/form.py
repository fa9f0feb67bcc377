"""In which form restored pictures are written: bits, rounding and format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from davi.data.images import DEEP_FORMATS, FORMATS, save_image
from davi.system.errors import InputError

PNG = ".png"


@dataclass(frozen=True)
class Form:
    """How pictures become files.

    Attributes:
        rounding: to 8 bits, see `to_uint8`.
        bit_depth: 8 or 16.
        keep_format: as the picture that was restored, and not as PNG.
    """

    rounding: str = "nearest"
    bit_depth: int = 8
    keep_format: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What a record says: only what is not the default, so that folders of before go on."""
        return {key: value for key, value in vars(self).items() if value != getattr(Form, key)}

    def suffix(self, own: str) -> str:
        """Returns the suffix of the result of a file with the given one.

        Raises:
            InputError: its format does not hold so many bits.
        """
        if not self.keep_format or own.lower() not in FORMATS:
            return PNG
        form = FORMATS[own.lower()]
        if self.bit_depth == 16 and form not in DEEP_FORMATS:
            raise InputError(
                f"{form} has 8 bits, so that it cannot be kept with 16; only "
                f"{' and '.join(DEEP_FORMATS)} have both"
            )
        return own

    def save(self, x: Tensor, path: Path) -> None:
        """Writes an image (1 or 3, H, W) in [-1, 1], see `save_image`."""
        save_image(x, path, self.rounding, self.bit_depth)


PLAIN = Form()  # PNG of 8 bits
