"""YAML text -> plain values, strictly; the only place where YAML is read or written.

Of YAML 1.2 this is what a configuration needs: mappings with text as keys, lists, and `null`,
`true`, `false`, decimal numbers and text. There are no tags, no dates and no other notation of
numbers, so that nothing is taken for something else. What a text can make a reader do is limited.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from davi.system.errors import InputError

MAX_BYTES = 2**16  # the largest config that davi ships has 3 kB
MAX_DEPTH = 20
MAX_VALUES = 10_000  # with each repetition by an alias

_NULL = ("", "~", "null", "Null", "NULL")
_BOOLEAN = ("true", "True", "TRUE", "false", "False", "FALSE")
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,19})", re.ASCII)  # 010 is 8 for some readers: text
_FLOAT = re.compile(r"(?=.*[.eE])[-+]?((0|[1-9]\d*)\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Plain:
    """A number or a boolean without quotes, which a field of text takes as it is written."""

    text: str
    value: bool | int | float

    def __repr__(self) -> str:
        return self.text


def scalar(text: str) -> str | Plain | None:
    """Returns what text without quotes stands for."""
    word = text.strip()
    if word in _NULL:
        return None
    if word in _BOOLEAN:
        return Plain(text, word.lower() == "true")
    if _INTEGER.fullmatch(word):
        return Plain(text, int(word))
    if _FLOAT.fullmatch(word):
        return Plain(text, float(word))
    return text


class _Loader(yaml.BaseLoader):
    """Makes values of text, and stops at what no configuration needs."""

    num_values = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            _refuse(event, f"the tag {event.tag[:40]} is not read; leave it out")
        return super().compose_node(parent, index)

    def value(self, node: yaml.Node, depth: int = 0) -> Any:
        """Returns what a node stands for."""
        self.num_values += 1
        if depth > MAX_DEPTH or self.num_values > MAX_VALUES:
            _refuse(node, f"at most {MAX_DEPTH} levels and {MAX_VALUES} values are read")
        if isinstance(node, yaml.ScalarNode):
            return scalar(node.value) if node.style is None else node.value
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each, depth + 1) for each in node.value]
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse(key, "a list or a mapping is no key")
            if key.value == "<<" and key.style is None:
                _refuse(key, "merge keys (<<) are not read; write the keys out, or use extends")
            if key.value in values:
                _refuse(key, f"the key {key.value[:40]!r} is given a second time")
            values[key.value] = self.value(value, depth + 1)
        return values


def parse(text: str, where: str) -> Any:
    """Returns the values of a YAML text; numbers and booleans without quotes as `Plain`.

    Raises:
        InputError: not YAML, a key given twice, a tag, or too deep; `where` begins the message.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.value(node)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{where}: cannot read this YAML ({line}{error.problem})") from error
    except RecursionError as error:
        raise InputError(f"{where}: at most {MAX_DEPTH} levels are read") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as "\UFFFFFFFF"
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: cannot read this YAML ({reason})") from error


def read_text(path: Path) -> str:
    """Returns the text of a configuration: of a small file, not of a pipe or a device.

    Raises:
        OSError, ValueError: there is no such file, or it cannot be read as one.
    """
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(f"larger than {MAX_BYTES} bytes")
    return content.decode("utf-8")


def dump(values: dict[str, Any]) -> str:
    """Returns values as YAML."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """A safe dumper that quotes text such as `1e-4`, which YAML 1.1 takes for no number."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"^({_FLOAT.pattern})$"), list("-+0123456789.")
)


def _refuse(place: yaml.Node | yaml.Event, why: str) -> None:
    raise yaml.MarkedYAMLError(problem=why, problem_mark=place.start_mark)
