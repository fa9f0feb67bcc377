"""DAVI: posterior samples of noisy inverse problems in a single network evaluation.

`davi.load(path).restore(y)` is the whole interface for using a trained generator.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from davi.metrics.uncertainty import Calibration
    from davi.restorer import Restorer, load

__version__ = "0.2.0"
__all__ = ["Calibration", "Restorer", "load"]


def __getattr__(name: str) -> Any:
    """Imports PyTorch when one of `__all__` is asked for, so that --help need not wait."""
    if name not in __all__:
        raise AttributeError(f"module 'davi' has no attribute {name!r}")
    module = "davi.metrics.uncertainty" if name == "Calibration" else "davi.restorer"
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    """Lists what is imported on demand as well."""
    return sorted({*globals(), *__all__})
