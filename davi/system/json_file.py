"""Files of JSON that this project wrote, and that others may have changed since."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from davi.system.errors import InputError

Shape = TypeVar("Shape")


def read_json(path: Path, shape: type[Shape]) -> Shape:
    """Returns what a file holds.

    Args:
        path: of the file.
        shape: what it must be, such as dict[str, int], or a dataclass.

    Raises:
        InputError: it is something else.
        OSError: it cannot be read.
    """
    return parse_json(path.read_bytes(), shape, str(path))


def parse_json(text: bytes, shape: type[Shape], place: str) -> Shape:
    """Returns what a text holds, see `read_json`; `place` begins the message."""
    try:
        return TypeAdapter(shape).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = "".join(f"{part}: " for part in first["loc"])
        raise InputError(f"{place}: damaged ({at}{first['msg']}); mend or remove it") from error
