"""Bit-equality of training states."""

from torch import Tensor, equal


def assert_same(first: object, second: object) -> None:
    """Fails unless two nested containers hold the same bits."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_same(value, second[key])
    elif isinstance(first, (list, tuple)):
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        assert first == second
