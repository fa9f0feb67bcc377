"""Networks whose class the user brings."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from davi.system.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CustomNetwork:
    """The architecture of a network whose class the user brings.

    Attributes:
        settings: keywords for the class, besides in_channels and out_channels.
        find_class: returns the class; runs the user's code.
        file: where it is from, for messages.
    """

    first_layer: ClassVar[str] = ""
    last_layer: ClassVar[str] = ""
    image_size: int
    out_channels: int
    downsampling: int
    settings: Mapping[str, Any] = field(hash=False)
    find_class: Callable[[], type[nn.Module]]
    file: str
    in_channels: int = 3

    def create(self) -> nn.Module:
        """Returns a freshly initialised network.

        Raises:
            InputError: the file cannot be used, or the settings do not fit its class.
        """
        found = self.find_class()
        values = {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            **self.settings,
        }
        try:
            inspect.signature(found).bind(**values)
        except TypeError as error:
            raise InputError(
                f"network.settings: {found.__name__} of {self.file}: {error}; it is made with "
                f"{', '.join(values)}"
            ) from error
        return found(**values)

    def empty(self) -> nn.Module:
        """Returns the network on the CPU: what it computes for itself is no part of its weights."""
        return self.create()
