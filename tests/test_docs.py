"""What the pages say exists: links, headings, commands, files, keys, messages."""

import ast
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
FENCE = re.compile(r"^( *)```.*?^\1```[^\n]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
MADE_BY_USERS = {"checkpoints/downloads.json", "checkpoints/manifest.json"}
# Files that a reader brings or makes, as reproducing.md says.
BROUGHT = re.compile(r"checkpoints/(ffhq|imagenet)\w*(/\w+)?\.(pt|safetensors)")
PLACEHOLDERS = {"FILE"}
NUM_README_LINES = 150
# What stands for files, names and numbers in a message that the FAQ quotes.
FILLED_IN = re.compile(r"\b[A-Z]+\b|\bHxW\b|manifest\.jsonl|\btrain\b|'[^']*'")
SHORTEST_FRAGMENT = 12  # of a message, between what is filled in


def markdown_files() -> list[Path]:
    """Every page of the repository that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split() if (path := REPOSITORY / name).is_file()]


PAGES = markdown_files()
NAMES = [path.relative_to(REPOSITORY).as_posix() for path in PAGES]


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


@cache
def anchors(path: Path) -> set[str]:
    """What links may name behind # on a page, as code hosts and the site make it of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in texts}


def broken_links(path: Path) -> Iterator[str]:
    """Yields the relative links of a page that lead nowhere."""
    for link in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if target.is_relative_to(DOCS / "api"):  # pages that the site makes of docstrings
            module = target.stem.replace(".", "/")
            if not (REPOSITORY / module).is_dir():
                yield link
        elif not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def files_named(text: str, folder: str) -> set[str]:
    """Paths below a folder that a text names, those with * or capitals for names left out."""
    found = re.findall(rf"(?<![\w/.]){folder}/[\w/.-]+\.\w+(?![\w*{{])", text)
    return {name for name in found if "TASK" not in name} - MADE_BY_USERS


@cache
def commands() -> set[str]:
    """The words that `davi` knows."""
    tree = ast.parse((REPOSITORY / "davi/commands/program.py").read_text())
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "COMMANDS"
    )
    return {key.value for key in table.keys}


def messages() -> str:
    """Every text in the code, with a mark where something is filled in."""
    texts = []
    for path in (*(REPOSITORY / "davi").rglob("*.py"), *REPOSITORY.glob("guided_diffusion/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                texts.append("".join(part if isinstance(part, str) else "\0" for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_links_lead_somewhere(path: Path) -> None:
    assert list(broken_links(path)) == []


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_named_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = {
        name
        for folder in ("configs", "checkpoints", "scripts", "docs", "tests", "davi", "examples")
        for name in files_named(text, folder)
        if not BROUGHT.fullmatch(name)
    }
    assert {name for name in named if not (REPOSITORY / name).exists()} == set()


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_named_commands_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    blocks = "".join(match.group() for match in FENCE.finditer(text))
    shown = re.findall(r"^davi (\w[\w-]*)", blocks, re.M) + re.findall(r"`davi (\w[\w-]*)", text)
    assert set(shown) - {"COMMAND", "SUBCOMMAND"} <= commands()


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_named_configurations_and_networks_are_shipped(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^davi (?:train|train-prior|degrade|table) ([\w/.]+)", text, re.MULTILINE)
    files = [name if name.endswith(".yaml") else f"configs/{name}.yaml" for name in found]
    networks = re.findall(r"--checkpoint (\w+)(?: |$)", text, re.MULTILINE)
    files += [f"checkpoints/{name}.safetensors" for name in networks if name not in PLACEHOLDERS]
    assert [name for name in files if not (REPOSITORY / name).exists()] == []


def test_readme_is_short() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= NUM_README_LINES


def test_configuration_page_is_current() -> None:
    path = DOCS / "configuration.py"
    spec = importlib.util.spec_from_file_location("docs_configuration", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run docs/configuration.py"


def test_every_key_of_a_configuration_has_a_meaning() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+)\|[^|]+\| *\|$", text, re.MULTILINE)
    plain = {name for name, value in rows if not value.startswith("section")}
    assert plain <= {"name", "method"}  # their only value says it


def test_messages_of_the_faq_are_those_of_the_code() -> None:
    text = (DOCS / "faq.md").read_text(encoding="utf-8").partition("## Error messages")[2]
    known = " ".join(messages().split())
    quoted = [block.strip() for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S)]
    assert len(quoted) >= 15
    for message in quoted:
        pieces = [piece.strip(" :;,.()'") for piece in FILLED_IN.split(message)]
        for piece in pieces:
            assert len(piece) < SHORTEST_FRAGMENT or piece in known, (message, piece)


def test_every_page_is_in_the_navigation() -> None:
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))
    assert navigation == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
