"""The one exception whose message is meant for the user, and how such messages list things."""

from collections.abc import Iterable

SAME_NAME = "another file has the same name but for the suffix; rename one of them"


class InputError(ValueError):
    """Something the user gave cannot be used: a config, a file, a folder, a device.

    The message says what it is, where, what is allowed and what to do. Commands print it as one
    line; from Python it is an ordinary ValueError. What a terminal would obey (in a name, or in the
    answer of a server) is shown as Python writes it.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())


def shown(items: Iterable[object], most: int = 10) -> str:
    """Returns the first `most` items separated by commas, and how many more there are."""
    names = list(map(str, items))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
