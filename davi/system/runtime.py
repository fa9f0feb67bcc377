"""Devices, precision and counter-based randomness.

A random draw belongs to a key such as (seed, "bridge", iteration, position), never to the moment
at which it happens: that is why results do not depend on batch size, order, resuming or the
number of processes.
"""

import contextlib
import hashlib
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from davi.system.errors import InputError

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(name: str | torch.device = "auto") -> torch.device:
    """Returns the device called `name`; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        InputError: the name is unknown, or its device is not present.
    """
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"device {name!r} is unknown: use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r} is not available: PyTorch sees {torch.cuda.device_count()} CUDA "
            "devices here; use --device cpu, or install a driver and a CUDA build of torch"
        )
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Returns the context in which a network runs: autocast for bf16 and fp16, nothing for fp32."""
    dtype = AUTOCAST_DTYPES[precision]
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def keyed_rng(device: torch.device | str, *key: int | str) -> torch.Generator:
    """Returns a generator whose draws are a function of the key alone (and the device type).

    Raises:
        InputError: a part of the key is neither a whole number nor text.
    """
    digest = hashlib.blake2b(repr(tuple(map(_plain, key))).encode(), digest_size=8).digest()
    # 63 bits: manual_seed takes a signed integer.
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


def _plain(part: Any) -> int | str:
    """The int or str of Python that a part of a key means; those of NumPy have another repr."""
    if isinstance(part, str):
        return str(part)
    if not is_whole(part):
        raise InputError(
            f"{part!r}: a seed is a whole number, a name is text (this is {type(part).__name__})"
        )
    return operator.index(part)


def is_whole(value: Any, at_least: int | None = None) -> bool:
    """Returns whether this is a whole number of Python, NumPy or PyTorch, and not below a bound."""
    try:
        number = operator.index(value)
    except TypeError:
        return False
    return at_least is None or number >= at_least


def draw_each(draw: Callable[[torch.Generator], Tensor], rngs: list[torch.Generator]) -> Tensor:
    """Returns the draws of one generator per sample, stacked to (B, ...)."""
    return torch.stack([draw(rng) for rng in rngs])


def normal_each(shape: tuple[int, ...], rngs: list[torch.Generator]) -> Tensor:
    """Returns (B, *shape) standard normal float32 draws, sample i from generator i."""
    # The dtype is stated, since the user may have set another default, of other numbers.
    return draw_each(
        lambda rng: torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float32), rngs
    )
