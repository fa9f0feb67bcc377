"""Writes docs/configuration.md: every key of a run's YAML file, from the models that read it.

Run it as `python docs/configuration.py`. Types, ranges and defaults are those of the classes in
davi/config/schema.py, network.py, problem.py and other_runs.py; the meaning of a key is the comment
beside its field.
"""

import ast
import dataclasses
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from davi.config import network, other_runs, problem, schema
from davi.config.recipes import POSTERIOR, RELEASE, recipe_settings
from davi.config.section import Section
from guided_diffusion.presets import PRESETS, UNetConfig

PAGE = Path(__file__).with_suffix(".md")
SOURCES = [Path(module.__file__) for module in (schema, network, problem, other_runs)]
# Models in the order of the page, with the key at which each stands.
RUNS = {
    "A run of `davi train`": schema.RunConfig,
    "A run of `davi train-prior`": schema.PriorRunConfig,
    "A run of `davi train` for I2SB": other_runs.I2SBRunConfig,
    "A run of `davi train` for a conditional teacher": other_runs.TeacherRunConfig,
}
SECTIONS = {
    "network: adm": network.NetworkConfig,
    "network: diffusers": network.DiffusersConfig,
    "network: custom": network.CustomNetworkConfig,
    "data": schema.DataConfig,
    "train": schema.TrainConfig,
    "prior": schema.FrozenPriorConfig,
    "operator: denoising": problem.DenoisingConfig,
    "operator: inpainting": problem.InpaintingConfig,
    "operator: super_resolution": problem.SuperResolutionConfig,
    "operator: gaussian_blur": problem.GaussianBlurConfig,
    "operator: colorization": problem.ColorizationConfig,
    "operator: nonlinear_blur": problem.NonlinearBlurConfig,
    "operator: hdr": problem.HdrConfig,
    "operator: phase_retrieval": problem.PhaseRetrievalConfig,
    "operator: jpeg": problem.JpegConfig,
    "operator: bks": problem.BksConfig,
    "operator: convolution": problem.ConvolutionConfig,
    "operator: custom": problem.CustomOperatorConfig,
    "noise: gaussian": problem.GaussianNoiseConfig,
    "noise: poisson": problem.PoissonNoiseConfig,
    "noise: impulse": problem.ImpulseNoiseConfig,
    "noise: speckle": problem.SpeckleNoiseConfig,
    "noise: mixture": problem.NoiseMixtureConfig,
    "bridge": schema.BridgeConfig,
    "generator": schema.GeneratorConfig,
    "fake_score": schema.FakeScoreConfig,
    "loss": schema.LossConfig,
    "adversarial": schema.AdversarialConfig,
    "teacher": other_runs.TeacherConfig,
    "bridge of I2SB": other_runs.I2SBBridgeConfig,
}
HEADINGS = {
    **{model: heading for heading, model in SECTIONS.items()},
    schema.LoopConfig: "train",  # of a prior or I2SB; its keys are the first of TrainConfig
    schema.PriorConfig: "prior",  # likewise
}
TASKS = [heading.split(": ")[1] for heading in SECTIONS if heading.startswith("operator")]
PLAIN_TYPES = {
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    str: "text",
    dict: "keys and values",
    NoneType: "`null`",
}
BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
OPENING = """\
# Configuration

<!-- Written by docs/configuration.py from davi/config/. Change it there. -->

Every key that the YAML file of a run may have. This page is made from the source.

## How a configuration is put together

From the weakest to the strongest:

1. the defaults on this page,
2. what `recipe: release` or `recipe: posterior` sets, if the file asks for it
   ([below](#what-recipe-release-sets)),
3. the file that `extends: other.yaml` names, relative to the file that names it,
4. what stands in that file under `recipes:` for the recipe in use,
5. the file itself, and what stands in it under `recipes:`,
6. `--set section.key=value` on the command line, as often as needed.

`--print-config` checks that the operator fits, shows the result and stops. An unknown key is an
error that names the nearest known one. A key that is given twice is an error, and so is a value of
a wrong type or out of its range.

Numbers are decimal: `1e-4` and `2e5` are, `0x10`, `010`, `1_000` and `1:30` are not. A switch is
`true` or `false`; `yes`, `no`, `on` and `off` are text. Where text is wanted, quotes are not
needed: `2024-01-05`, `2024` and `no` are taken as they are written. Only `null` and `~` alone mean
that there is nothing.

A config is a file of at most 64 kB, and up to 20 files may extend each other. YAML's tags (`!!int`)
are not read.

Paths in a configuration are relative to the folder in which the command is started; `~/` at their
start is your home. A shipped network is also found by its name, such as `photos_prior`. A source of
images is a folder, a `.zip` file, `.tar` shards, `kernels:SIZE:SPLIT` or `photos:SPLIT`, the
embedded photographs ([training](training.md#images)).

"needed" in the column "default" means that the key must be given.
"""


def page() -> str:
    """Returns the whole page."""
    comments: dict[tuple[str, str], str] = {}
    for source in SOURCES:
        comments |= field_comments(source.read_text(encoding="utf-8"))
    parts = [OPENING]
    parts += [_section(heading, model, comments) for heading, model in RUNS.items()]
    parts += [_section(heading, model, comments) for heading, model in SECTIONS.items()]
    return "\n".join([*parts, _presets(), _release(), _posterior()])


def field_comments(source: str) -> dict[tuple[str, str], str]:
    """Returns {(class, field): comment}: the lines above a field, then what stands beside it."""
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.walk(ast.parse(source)):
        for field in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(field, ast.AnnAssign):
                numbers = _comment_lines(lines, field)
                texts = [comments[number] for number in numbers if number in comments]
                found[node.name, field.target.id] = " ".join(texts)
    return found


def _comment_lines(lines: list[str], field: ast.AnnAssign) -> range:
    """The lines on which a comment belongs to a field."""
    first = field.lineno
    while lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return range(first, field.end_lineno + 1)


def _section(heading: str, model: type[Section], comments: dict[tuple[str, str], str]) -> str:
    note = ""
    if model is schema.TrainConfig:
        rows = list(schema.LoopConfig.model_fields)
        own = ", ".join(f"`{name}`" for name in model.model_fields if name not in rows)
        note = f"\nA prior and an I2SB network have all of these keys but {own}.\n"
    rows = [_row(name, field, model, comments) for name, field in model.model_fields.items()]
    table = "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])
    text = "" if heading in RUNS else f"{_plain(model.__doc__)}\n"
    return f"## {heading}\n\n{text}{note}\n{table}\n"


def _row(
    name: str, field: FieldInfo, model: type[Section], comments: dict[tuple[str, str], str]
) -> str:
    meaning = next(
        comments[parent.__name__, name]
        for parent in model.__mro__
        if (parent.__name__, name) in comments
    )
    if not meaning and _is_section(field.annotation):
        meaning = field.annotation.__doc__
    value = _value_of(field.annotation, field.metadata)
    return f"| `{name}` | {value} | {_default_of(field)} | {_plain(meaning)} |"


def _plain(text: str) -> str:
    """A comment as Markdown: paths of pages become links, marks of a table stay text."""
    text = " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")
    return re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", text)


def _value_of(kind: Any, metadata: list[Any]) -> str:
    """What a key may hold, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        marks = [mark for part in inner[1:] for mark in getattr(part, "metadata", [part])]
        return _value_of(inner[0], [*metadata, *marks])
    if origin in (Union, UnionType):
        known = [part for part in inner if part is not NoneType]
        empty = ["`null`"] if NoneType in inner else []
        if all(_is_section(part) for part in known):
            return _choice_of(known)
        return " or ".join([*empty, *(_value_of(part, metadata) for part in known)])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        items = [part for part in inner if part is not Ellipsis]
        count = "" if Ellipsis in inner else f"{len(items)} "
        kind = _value_of(items[0], []).replace("number", "numbers")
        return f"list of {count}" + kind.replace("section with", "sections with")
    if _is_section(kind):
        return f"section [{HEADINGS[kind]}](#{anchor(HEADINGS[kind])})"
    words = PLAIN_TYPES[origin or kind]
    return ", ".join([words, *_ranges(metadata)])


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _choice_of(models: list[type[Section]]) -> str:
    links = [f"[{HEADINGS[model].split(': ')[1]}](#{anchor(HEADINGS[model])})" for model in models]
    return f"section with `name`: {', '.join(links)}"


def _ranges(metadata: list[Any]) -> Iterator[str]:
    for mark in metadata:
        for name, words in BOUNDS.items():
            if (bound := getattr(mark, name, None)) is not None:
                yield f"{words} {bound:,}"


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    return "below" if isinstance(value, Section) else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_yaml, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def anchor(heading: str) -> str:
    """Returns what a code host and the site call a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _presets() -> str:
    fields = {field.name for field in dataclasses.fields(UNetConfig)}
    names = [name for name in network.NetworkConfig.model_fields if name in fields]
    rows = [
        f"| `{name}` | " + " | ".join(_yaml(getattr(preset, name)) for preset in PRESETS.values())
        for name in names
    ]
    head = f"| key | {' | '.join(f'`{name}`' for name in PRESETS)} |"
    text = (
        "What `network.preset` stands for; guided_diffusion/presets.py names the weights of each."
    )
    table = "\n".join([head, "|---" * (len(PRESETS) + 1) + "|", *(f"{row} |" for row in rows)])
    return f"## Presets\n\n{text}\n\n{table}\n"


def _release() -> str:
    for_all, *_ = recipe_settings(RELEASE, None)
    parts = [("all", for_all), *((task, _of_task(task)) for task in TASKS)]
    text = (
        "The recipe is what the authors' released code does; [fidelity](fidelity.md) says why it\n"
        "differs from the paper. The files of configs/ add what depends on the data set."
    )
    return _recipe(RELEASE, text, parts)


def _posterior() -> str:
    text = (
        "Its samples are meant to be distributed as the posterior\n"
        "([objective](objective.md#the-posterior-as-the-target)). "
        "The files of configs/ add what depends on the\ndata set."
    )
    return _recipe(POSTERIOR, text, [("all", *recipe_settings(POSTERIOR, None))])


def _recipe(name: str, text: str, parts: list[tuple[str, dict[str, Any]]]) -> str:
    rows = [
        f"| {task} | `{key}` | `{_yaml(value)}` |"
        for task, settings in parts
        for key, value in _leaves(settings, "")
    ]
    table = "\n".join(["| tasks | key | value |", "|---|---|---|", *rows])
    return f"## What `recipe: {name}` sets\n\n{text}\n\n{table}\n"


def _of_task(task: str) -> dict[str, Any]:
    return recipe_settings(RELEASE, task)[-1]


def _leaves(settings: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key != "name":
            yield f"{prefix}{key}", value


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
