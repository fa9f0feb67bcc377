"""What the site needs beyond the pages in docs/: the API, and files elsewhere that pages link to.

A link of a page to a file outside docs/ works on a code host. For the site the file is published
under repository/, and the link is turned there. A table's page NAME.html, which is made elsewhere,
keeps its name beside NAME.md, whose page moves to NAME/index.html.
"""

import posixpath
import re
from collections import defaultdict
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS, OUTSIDE, API = "docs", "repository", "api"
WIDE = {"configuration.md", "fidelity.md", "speed.md", "tables.md"}  # tables need the room
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages of the API to the navigation."""
    config.nav.append({"API": [{title: f"{API}/{title}.md"} for title in api_pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the API, and every file outside docs/ that a page leads to."""
    for path in sorted((ROOT / DOCS / "tables").glob("*.html")):
        _make_room(files, config, path)
    for title, text in api_pages().items():
        files.append(File.generated(config, f"{API}/{title}.md", content=text))
    pending = [file.src_uri for file in files.documentation_pages()]
    while pending:
        page = pending.pop()
        path = ROOT / repository_path(page)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for target in outside_links(page, text):
            uri = f"{OUTSIDE}/{target}"
            if (ROOT / target).is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
                pending += [uri] if target.endswith(".md") else []
    return files


def _make_room(files: Files, config: MkDocsConfig, path: Path) -> None:
    """Adds a finished HTML page, whose Markdown of the same name would take its place."""
    uri = path.relative_to(ROOT / DOCS).as_posix()
    page = files.get_file_from_path(f"{uri.removesuffix('.html')}.md")
    if page is not None:
        files.remove(page)
        files.append(File(page.src_uri, config.docs_dir, config.site_dir, use_directory_urls=True))
    included = InclusionLevel.INCLUDED  # in spite of exclude_docs
    files.append(File.generated(config, uri, abs_src_path=str(path), inclusion=included))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the links that leave docs/ to where the files are published."""
    here = page.file.src_uri
    if here in WIDE:
        page.meta["hide"] = ["toc"]
    folder = posixpath.dirname(here)

    def turned(match: re.Match) -> str:
        return posixpath.relpath(site_path(here, match.group(1)), folder or ".")

    return LINK.sub(turned, markdown)


def repository_path(page: str) -> str:
    """Returns where the source of a page is, relative to the root of the repository."""
    inside = page.removeprefix(f"{OUTSIDE}/")
    return inside if inside != page else f"{DOCS}/{page}"


def site_path(page: str, link: str) -> str:
    """Returns where the target of a page's link is among the files of the site."""
    target = _target(page, link)
    inside = target.removeprefix(f"{DOCS}/")
    return inside if inside != target else f"{OUTSIDE}/{target}"


def outside_links(page: str, text: str) -> list[str]:
    """Returns what a page links to outside docs/, relative to the root of the repository."""
    links = LINK.findall(FENCE.sub("", text))
    targets = [_target(page, link.partition("#")[0]) for link in links]
    return [target for target in targets if not target.startswith((f"{DOCS}/", ".."))]


def _target(page: str, link: str) -> str:
    folder = posixpath.dirname(repository_path(page))
    return posixpath.normpath(posixpath.join(folder, link))


def api_pages() -> dict[str, str]:
    """Returns the page of every folder of the code, by its title."""
    modules = defaultdict(list)
    for package in ("davi", "guided_diffusion"):
        for path in sorted(
            (ROOT / package).rglob("*.py"), key=lambda path: (path.parent, path.name)
        ):
            *folders, name = path.relative_to(ROOT).with_suffix("").parts
            if not name.startswith("__"):
                modules[".".join(folders)].append(name)
    return {title: _api_page(title, names) for title, names in modules.items()}


def _api_page(title: str, names: list[str]) -> str:
    sections = [f"::: {title}.{name}\n" for name in names]
    return "\n".join([f"# {title}\n", *sections])
