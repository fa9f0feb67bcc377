"""The one exception whose message is meant for the user, and how such messages list things."""

from collections.abc import Iterable

SAME_NAME = "another file has the same name but for the suffix; rename one of them"


class InputError(ValueError):
    """Something the user gave cannot be used: a config, a file, a folder, a device.

    The message says what it is, where, what is allowed and what to do. Commands print it as one
    line; from Python it is an ordinary ValueError.
    """


def shown(items: Iterable[object], most: int = 10) -> str:
    """Returns the first `most` items separated by commas, and how many more there are."""
    names = list(map(str, items))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
