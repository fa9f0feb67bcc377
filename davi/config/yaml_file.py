"""Reads run configurations from YAML files.

A file describes one run. `extends: other.yaml` names one base whose values it overrides, and
`--set section.key=value` overrides both. `recipe: release | posterior` puts the settings of
`davi.config.recipes` below all of them. Values under `recipes: {NAME: ...}` count only if NAME is
the recipe; they override the rest of their own file, and files that extend it override them.
"""

import difflib
import functools
import os.path
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError

from davi.config.diffusers_folder import read_folder
from davi.config.recipes import PAPER, RECIPES, recipe_settings
from davi.config.section import Section
from davi.config.yaml_text import MAX_DEPTH, Plain, dump, parse, read_text, scalar
from davi.system.errors import InputError
from davi.system.shipped import CONFIGS, shipped_names

Config = TypeVar("Config", bound=Section)
MAX_BASES = 20  # files that extend each other
MAX_SHOWN = 10  # problems in one message


def load_config(path: str | Path, model: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Returns the checked configuration of a YAML file.

    Args:
        path: the file.
        model: such as RunConfig.
        overrides: "section.key=value" strings, applied last.

    Raises:
        InputError: unreadable file, unknown key, wrong type or value; one line that names the
            file and the key.
    """
    layers = _layers(Path(path), overrides)
    values = _with_folder_read(_resolve(layers, model, str(path)), model)
    return parse_config(values, model, str(path))


def _with_folder_read(values: dict, model: type[Section]) -> dict:
    """What the folder of diffusers says in the place of its path, and below all other values.

    Only a file of the user's comes here: a folder that a weight file names is not opened.
    """
    network = values.get("network")
    if not isinstance(network, dict) or network.get("name") != "diffusers":
        return values
    others = {key: value for key, value in network.items() if key != "folder"}
    folder = _typed(network.get("folder"), str)
    if not isinstance(folder, str):
        return values
    read = read_folder(Path(folder).expanduser())
    known = {key: value for key, value in read.items() if key in model.model_fields}
    return _merge(known, {**values, "network": others})


def _layers(path: Path, overrides: Sequence[str]) -> list[dict]:
    """The values of a file on top of those it extends, and the overrides on top of all."""
    layers = _read_with_bases(path, seen=())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not key or not equals:
            raise InputError(f"--set {override}: write it as section.key=value")
        is_yaml = text.startswith(("'", '"', "[", "{"))  # else YAML would take "#" for a comment
        value = parse(text, f"--set {key}") if is_yaml else scalar(text)
        if key.count(".") >= MAX_DEPTH:
            raise InputError(f"--set {key:.40}: more than {MAX_DEPTH} levels")
        for part in reversed(key.split(".")):
            value = {part: value}
        layers.append(value)
    return layers


def read_method(path: Path, overrides: Sequence[str] = ()) -> str | None:
    """Returns what a YAML file, or a file that it extends, says at `method`; None if nothing.

    Raises:
        InputError: unreadable file.
    """
    return functools.reduce(_merge, _layers(path, overrides), {}).get("method")


def parse_config(values: dict, model: type[Config], where: str) -> Config:
    """Returns the checked configuration of nested plain values, `where` naming their origin.

    Raises:
        InputError: as `load_config`.
    """
    try:
        if unknown := list(_unknown_keys(values, model, "")):
            raise InputError(f"{where}: {_joined(unknown)}")
        values = _typed(values, model)
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem, values) for problem in error.errors()]
        raise InputError(f"{where}: {_joined(problems)}") from error
    except RecursionError as error:
        raise InputError(f"{where}: too many levels in each other") from error


def to_yaml(config: Section) -> str:
    """Returns the resolved configuration as YAML; loading it gives the same configuration."""
    return dump(config.model_dump(mode="json"))


def flatten(config: Section) -> dict[str, Any]:
    """Returns {"section.key": value} for every leaf of the configuration."""

    def walk(values: dict, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(config.model_dump(mode="json"), ""))


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> list[dict]:
    """The values of a file and the files it extends, the last base first."""
    try:
        text = read_text(path)
        place = path.resolve()
    except FileNotFoundError as error:
        nearest = difflib.get_close_matches(path.stem, shipped_names(CONFIGS), n=1)
        hint = f"; did you mean {nearest[0]}, which davi ships?" if nearest else ""
        raise InputError(f"{path}: cannot read this config (no such file{hint})") from error
    except (OSError, ValueError) as error:  # a ValueError: no UTF-8, or a NUL in the path
        raise InputError(f"{path}: cannot read this config ({error})") from error
    if place in seen:
        raise InputError(f"{path}: extends itself")
    if len(seen) > MAX_BASES:
        raise InputError(f"{path}: more than {MAX_BASES} files that extend each other")
    values = parse(text, str(path))
    if not isinstance(values, dict):
        raise InputError(f"{path}: a config is a mapping of sections, this is {values!r:.40}")
    if (base := _typed(values.pop("extends", None), str)) is None:
        return [values]
    if not isinstance(base, str):
        raise InputError(f"{path}: extends: the path of a file is needed, not {base!r:.40}")
    return [*_read_with_bases(path.parent / os.path.expanduser(base), (*seen, place)), values]


def _resolve(layers: list[dict], model: type[Section], where: str) -> dict:
    """All layers in one, on top of the recipe they ask for."""
    if "recipe" not in model.model_fields:
        return functools.reduce(_merge, layers, {})
    recipe = next((layer["recipe"] for layer in reversed(layers) if "recipe" in layer), PAPER)
    if recipe not in RECIPES:
        raise InputError(f"{where}: recipe: {recipe!r:.40} is none of {', '.join(RECIPES)}")
    values: dict = {}
    for layer in layers:
        special = layer.pop("recipes", None) or {}
        if not _are_recipes(special):
            raise InputError(
                f"{where}: recipes: a mapping of settings for each of {', '.join(RECIPES)}"
            )
        values = _merge(_merge(values, layer), special.get(recipe, {}))
    operator = values.get("operator")
    task = operator.get("name") if isinstance(operator, dict) else None
    task = task if isinstance(task, str) else None  # anything else is refused later
    return functools.reduce(_merge, [*recipe_settings(recipe, task), values], {})


def _are_recipes(special: Any) -> bool:
    """Whether a `recipes` section holds settings, and none that chooses a recipe."""
    return (
        isinstance(special, dict)
        and special.keys() <= set(RECIPES)
        and all(isinstance(part, dict) and "recipe" not in part for part in special.values())
    )


def _merge(base: Any, changes: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    if "name" in changes and changes["name"] != base.get("name"):
        return changes  # another operator or noise: none of the old one's keys belong to it
    return base | {key: _merge(base.get(key), value) for key, value in changes.items()}


def _unknown_keys(values: Any, model: type[Section] | None, prefix: str) -> Iterator[str]:
    """Yields one sentence for every key that no section has, with the nearest name."""
    if model is None or not isinstance(values, dict):
        return
    for key, value in values.items():
        if key in model.model_fields:
            section = _section_of(model.model_fields[key].annotation, value)
            yield from _unknown_keys(value, section, f"{prefix}{key}.")
        else:
            nearest = difflib.get_close_matches(str(key), model.model_fields, n=1)
            allowed = ", ".join(model.model_fields)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"allowed: {allowed}"
            yield f"unknown key {prefix + str(key)!r:.80}, {hint}"


def _typed(value: Any, annotation: Any) -> Any:
    """The value as a field of an annotation takes it: text as written, a list as a tuple."""
    if isinstance(value, Plain):
        if _takes(annotation, str):
            return value.text
        whole = isinstance(value.value, float) and value.value.is_integer()  # such as 1e5
        is_count = _takes(annotation, int) and not _takes(annotation, float)
        return int(value.value) if whole and is_count else value.value
    if isinstance(value, list):
        items = [_typed(each, annotation) for each in value]
        return tuple(items) if _takes(annotation, tuple) else items
    if not isinstance(value, dict):
        return value
    section = _section_of(annotation, value)
    fields = section.model_fields if section else {}
    return {
        key: _typed(each, fields[key].annotation if key in fields else annotation)
        for key, each in value.items()
    }


def _takes(annotation: Any, kind: type) -> bool:
    """Whether a field may hold `kind`, or a list or a mapping of it."""
    if get_origin(annotation) is dict:
        return _takes(get_args(annotation)[1], kind)
    inside = (_takes(each, kind) for each in get_args(annotation))
    return kind in (annotation, get_origin(annotation)) or any(inside)


def _section_of(annotation: Any, value: Any) -> type[Section] | None:
    """The section class a field's value belongs to; of a union, the one with the value's name."""
    if not isinstance(value, dict):
        return None
    for candidate in get_args(annotation) or (annotation,):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            tag = candidate.model_fields.get("name")
            if tag is None or value.get("name", tag.default) in get_args(tag.annotation):
                return candidate
    return None


def _joined(problems: Sequence[str]) -> str:
    more = [f"and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
    return "; ".join([*problems[:MAX_SHOWN], *more])


def _describe(problem: dict, values: Any) -> str:
    """One sentence for a pydantic problem, in terms of the keys of the file."""
    keys = []
    for part in problem["loc"]:
        # Inside a union pydantic adds the member's name to the location; it is no key.
        # A network without a name is ADM's.
        if isinstance(values, dict) and part not in values and part == values.get("name", "adm"):
            continue
        keys.append(str(part))
        values = values.get(part) if isinstance(values, dict) else None
    key = ".".join(keys)
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r:.80})"
    return f"{key}: {message}{given}" if key else message  # about several sections
