"""DAVI: posterior samples of noisy inverse problems in a single network evaluation.

`davi.load(path).restore(y)` is the whole interface for using a trained generator.
"""

from davi.restorer import Restorer, load

__all__ = ["Restorer", "load"]
