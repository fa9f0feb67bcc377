"""A mask as text, to stand in a config where the path of its file was."""

import base64
import re

import numpy as np
import torch
from torch import Tensor

from davi.system.errors import InputError

_MASK_TEXT = re.compile(r"mask:([1-9]\d{0,4})x([1-9]\d{0,4}):([A-Za-z0-9+/]*=*)")


def mask_to_text(mask: Tensor) -> str:
    """Returns an (H, W) mask as one line of text, "mask:HxW:" and its bits in base64."""
    bits = np.packbits(mask.bool().cpu().numpy())
    return f"mask:{mask.shape[0]}x{mask.shape[1]}:{base64.b64encode(bits.tobytes()).decode()}"


def is_mask_text(value: object) -> bool:
    """Returns whether this is the text of a mask, and no path of one."""
    return isinstance(value, str) and _MASK_TEXT.fullmatch(value) is not None


def mask_from_text(text: str) -> Tensor:
    """Returns the (H, W) bool mask of `mask_to_text`.

    Raises:
        InputError: another number of bits than its size needs.
    """
    height, width, code = _MASK_TEXT.fullmatch(text).groups()
    height, width = int(height), int(width)
    try:
        content = base64.b64decode(code, validate=True)
    except ValueError:
        content = b""
    if len(content) != -(-height * width // 8):
        raise InputError(f"mask of {height}x{width}: does not hold as many bits")
    bits = np.unpackbits(np.frombuffer(content, np.uint8), count=height * width)
    return torch.from_numpy(bits.reshape(height, width)).bool()
