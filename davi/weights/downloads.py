"""Public weight files: where they are, and getting them whole.

A file arrives as NAME.part and gets its name once size and hash are right. Hashes that nobody
published are written down at the first download and hold from then on.

gdown finds files in Google Drive folders by their names. What brings them is the code below, as
for all others: gdown would go on with a part of a version of the file that is no longer there.
"""

import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from davi.system.errors import InputError, shown
from davi.system.files import (
    DISK_FULL,
    disk_full_as_input_error,
    make_folder,
    sha256_of,
    write_text,
)

RECORD = "downloads.json"
BLOCK = 1 << 20
TIMEOUT = 60  # seconds without a byte
ATTEMPTS = 4  # in a row that bring nothing
PAUSE = 0.5  # seconds, doubled before every further attempt
_PASSING = (408, 429, 500, 502, 503, 504)  # answers after which it is worth to ask again
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class PublicFile:
    """A file that others publish.

    Attributes:
        file: where it belongs, relative to the folder of all.
        home: where a browser finds it.
        url: of the file itself; None if it is to be found in `home`, a folder of Google Drive.
        size: in bytes, if published.
        sha256: if published.
    """

    file: str
    home: str
    url: str | None = None
    size: int | None = None
    sha256: str | None = None

    def by_hand(self, folder: Path) -> str:
        """Returns what to do without this program."""
        path = folder / self.file
        return (
            f"by hand: get {path.name} from {self.home} and put it at {path}, or below a folder "
            f"DIR as {self.file} and add --from DIR"
        )


DRIVE_FOLDER = "https://drive.google.com/drive/folders/{}"
# confirm=t answers the question whether to take a file too large for the virus scanner.
DRIVE_FILE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
_RELEASE_HOME = DRIVE_FOLDER.format("1h8vKYwTYSshljBuW9NdBRJQSp_HBPZdA")
_OPENAI = (
    "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt"
)
_RELEASE_NAMES = ("gaussian", "sr_averagepooling", "inpainting", "deno", "colorization")

PUBLIC_FILES = {
    "ffhq_prior": PublicFile(
        "ffhq_10m.pt",
        home=DRIVE_FOLDER.format("1jElnRoFv7b31fG0v6pTSQkelbSX3xGZh"),
        url=DRIVE_FILE.format("1BGwhRWUoguF-D8wlZ65tf227gp3cDUDh"),
    ),
    "imagenet_prior": PublicFile(
        "256x256_diffusion_uncond.pt",
        home=_OPENAI,
        url=_OPENAI,
        size=2_211_383_297,
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
    ),
    # The authors publish the address of the folder, and none of the files.
    **{
        f"{data}_{name}": PublicFile(f"{data}/{name}_ema.pt", home=_RELEASE_HOME)
        for data in ("ffhq", "imagenet")
        for name in _RELEASE_NAMES
    },
}


def obtain(name: str, public: PublicFile, folder: Path, source: Path | None = None) -> str:
    """Puts a public file into its place, unless it is there, and returns what was done.

    Args:
        name: what it is called in the record.
        public: the file.
        folder: of all files, and of the record of their hashes.
        source: a folder to copy from, instead of a download.

    Raises:
        InputError: it cannot be had, or is not the file it should be. An existing file is never
            changed.
    """
    target = folder / public.file
    if target.exists():
        sha256 = _verified(target, name, public, folder, "it is left as it is; move it away first")
        return f"{target}: is there already, SHA-256 {sha256}"
    if source is not None:
        source = _found(public, source)
    elif public.url is None:
        public = replace(public, url=_drive_url(public, folder))
    make_folder(target.parent)
    part = target.with_name(f"{target.name}.part")
    with disk_full_as_input_error(target.parent):
        if source is None:
            _download(public, part, folder)
        else:
            shutil.copyfile(source, part)
    _version_file(part).unlink(missing_ok=True)
    try:
        sha256 = _verified(part, name, public, folder, "this copy was removed")
    except InputError:
        part.unlink()
        raise
    part.rename(target)
    return f"{target}: {target.stat().st_size} bytes, SHA-256 {sha256}"


def _verified(path: Path, name: str, public: PublicFile, folder: Path, fate: str) -> str:
    """Returns the SHA-256 of a file that is what it should be, and records it.

    Raises:
        InputError: it is not; `fate` ends the message.
    """
    record = _read_record(folder)
    entry = record.get(name, {})
    size = path.stat().st_size
    if _is_web_page(path):
        raise InputError(f"{path}: is a web page, not a weight file; {fate}")
    if size != (wanted := public.size or entry.get("bytes", size)):
        origin = _origin(public.size, folder)
        raise InputError(f"{path}: has {size} bytes, not the {origin} {wanted}; {fate}")
    sha256 = sha256_of(path)
    if sha256 != (wanted := public.sha256 or entry.get("sha256", sha256)):
        origin = _origin(public.sha256, folder)
        raise InputError(f"{path}: its SHA-256 is {sha256}, not the {origin} {wanted}; {fate}")
    if name not in record:
        record[name] = {"file": public.file, "bytes": size, "sha256": sha256}
        write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    return sha256


def _origin(published: object, folder: Path) -> str:
    return "published" if published else f"recorded (in {folder / RECORD})"


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{folder / RECORD}: damaged ({error}); mend or remove it") from error


def _is_web_page(path: Path) -> bool:
    with open(path, "rb") as stream:
        start = stream.read(256).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _found(public: PublicFile, source: Path) -> Path:
    """The file in a folder, which may also be the sub-folder it belongs into."""
    path = Path(public.file)
    is_its_own = path.parent.name in ("", source.resolve().name)
    for candidate in (path, path.name) if is_its_own else (path,):
        if (source / candidate).is_file():
            return source / candidate
    reason = ""
    if not is_its_own and not (source / path.parent).is_dir():
        reason = f"; DIR must contain the sub-folder {path.parent}"
    raise InputError(f"{source}: holds no {public.file}{reason}")


def _drive_url(public: PublicFile, folder: Path) -> str:
    """The address of a file that is known by its name in a Google Drive folder.

    Raises:
        InputError: the folder cannot be read, or the name is not in it exactly once.
    """
    import gdown

    try:
        listing = _drive_listing(public.home)
    except (gdown.DownloadError, OSError) as error:
        raise InputError(
            f"{public.home}: cannot be listed ({_first_cause(error)}); {public.by_hand(folder)}"
        ) from error
    wanted = Path(public.file).parts
    found = [key for key, path in listing.items() if path.parts[-len(wanted) :] == wanted]
    if len(found) != 1:
        raise InputError(
            f"{public.home}: holds {len(found) or 'no'} {public.file} among "
            f"{shown(listing.values()) or 'no files'}; {public.by_hand(folder)}"
        )
    return DRIVE_FILE.format(*found)


def _first_cause(error: BaseException) -> str:
    """What all else followed from, in one line: a refused connection, a name that is unknown."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())


@cache
def _drive_listing(home: str) -> dict[str, Path]:
    """{id: path in the folder} of all files in a Google Drive folder and the folders in it."""
    import gdown

    files = gdown.download_folder(
        home, skip_download=True, quiet=True, use_cookies=False, timeout=TIMEOUT
    )
    return {file.id: Path(file.path) for file in files}


def _download(public: PublicFile, part: Path, folder: Path) -> None:
    """Brings a file into `part`, going on where an earlier attempt ended.

    Raises:
        InputError: attempts in a row brought nothing, or the answer is not the file.
    """
    most, failures = _size(part), 0
    while reason := _fetch_some(public, part, folder):
        if _size(part) > most:
            most, failures = _size(part), 0
            continue
        failures += 1
        if failures == ATTEMPTS:
            raise InputError(
                f"{public.url}: cannot be read ({reason}); the same command goes on where this one "
                f"ended; {public.by_hand(folder)}"
            )
        time.sleep(PAUSE * 2**failures)


def _fetch_some(public: PublicFile, part: Path, folder: Path) -> str | None:
    """One attempt; returns why it ended early, None if `part` is complete."""
    try:
        return None if _fetch(public, part, folder) else "the connection broke"
    except urllib.error.HTTPError as error:
        if error.code not in _PASSING:
            raise InputError(
                f"{public.url}: answers {error.code} {error.reason}; {public.by_hand(folder)}"
            ) from error
        return f"{error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        return str(getattr(error, "reason", error)) or type(error).__name__


def _fetch(public: PublicFile, part: Path, folder: Path) -> bool:
    """Asks for what is missing and appends it; returns whether `part` is complete."""
    have, version = _size(part), _version_file(part)
    request = urllib.request.Request(public.url, headers={"User-Agent": "davi"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version.exists():  # another version of the file is sent whole
            request.add_header("If-Range", version.read_text(encoding="utf-8"))
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return True
        part.unlink()  # longer than the file: not a piece of it
        return False
    with response:
        start, total = _extent(response, have)
        _refuse_other_content(response, total, public, folder)
        if start == 0:
            _note_version(response, version)
        _append(response, part, start, total)
    return total is None or _size(part) == total


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _note_version(response: http.client.HTTPResponse, path: Path) -> None:
    """Writes down what tells this version of a file from another, if the server says so."""
    tag = response.headers.get("ETag", "W/")
    # A weak tag may be shared by versions that differ in their bytes.
    version = response.headers.get("Last-Modified") if tag.startswith("W/") else tag
    if version is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(version, encoding="utf-8")


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the answer begins in the file, and how long the whole file is, if it says so."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length")  # ranges are not supported
        return 0, None if length is None else int(length)
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != have:
        raise http.client.HTTPException("the server answered with another range")
    return have, int(match[2])


def _refuse_other_content(
    response: http.client.HTTPResponse, total: int | None, public: PublicFile, folder: Path
) -> None:
    if response.headers.get_content_type() == "text/html":
        raise InputError(
            f"{public.url}: answers with a web page instead of the file (a question, a login or a "
            f"limit on downloads); {public.by_hand(folder)}"
        )
    if None not in (total, public.size) and total != public.size:
        raise InputError(
            f"{public.url}: offers {total} bytes instead of {public.size}; {public.by_hand(folder)}"
        )


def _append(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    bar = {"initial": start, "desc": part.stem, "unit": "B", "unit_scale": True, "disable": None}
    with (
        open(part, "r+b" if start else "wb") as stream,
        tqdm.wrapattr(response, "read", total, bytes=False, **bar) as counted,
    ):
        stream.seek(start)
        shutil.copyfileobj(counted, stream, BLOCK)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
