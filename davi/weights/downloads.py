"""Public weight files: where they are, and getting them whole.

A file arrives as NAME.part and gets its name once size and hash are right. Hashes that nobody
published are written down at the first download and hold from then on.

gdown finds files in Google Drive folders by their names. What brings them is the code below, as
for all others: gdown would go on with a part of a version of the file that is no longer there.
"""

import http
import json
import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from davi.system.errors import InputError, shown
from davi.system.files import disk_full_as_input_error, make_folder, sha256_of, write_text
from davi.system.json_file import read_json

RECORD = "downloads.json"
BLOCK = 1 << 20
MOST = 16 << 30  # bytes of a file whose size nobody has said
TIMEOUT = 60  # seconds without a byte
ATTEMPTS = 4  # in a row that together bring less than LEAST
LEAST = 1 << 20
PAUSE = 0.5  # seconds, doubled before every further attempt
_PASSING = (408, 429, 500, 502, 503, 504)  # answers after which it is worth to ask again
_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18})")
# How files of torch.save begin: a zip archive, or until PyTorch 1.6 a pickled number.
_TORCH_FILE = re.compile(rb"PK\x03\x04|\x80.\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)


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


@dataclass(frozen=True)
class Recorded:
    """What the record says of a file: what it was at its first arrival."""

    file: str
    bytes: int
    sha256: str


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
            recorded = _read_record(folder).get(name)
            most = public.size or (recorded.bytes if recorded else MOST)
            _Download(public, part, most, public.by_hand(folder)).run()
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
    size = path.stat().st_size
    known = record.get(name) or Recorded(public.file, size, "")
    if size != (wanted := public.size or known.bytes):
        origin = _origin(public.size, folder)
        raise InputError(f"{path}: has {size} bytes, not the {origin} {wanted}; {fate}")
    with open(path, "rb") as stream:
        start = stream.read(24)
    if not _TORCH_FILE.match(start):
        raise InputError(
            f"{path}: is no weight file of PyTorch, its {size} bytes begin with {start!r}; {fate}"
        )
    sha256 = sha256_of(path)
    if sha256 != (wanted := public.sha256 or known.sha256 or sha256):
        origin = _origin(public.sha256, folder)
        raise InputError(f"{path}: its SHA-256 is {sha256}, not the {origin} {wanted}; {fate}")
    if name not in record:
        record[name] = replace(known, sha256=sha256)
        text = json.dumps({each: asdict(entry) for each, entry in record.items()}, indent=2)
        write_text(folder / RECORD, f"{text}\n")
    return sha256


def _origin(published: object, folder: Path) -> str:
    return "published" if published else f"recorded (in {folder / RECORD})"


def _read_record(folder: Path) -> dict[str, Recorded]:
    path = folder / RECORD
    return read_json(path, dict[str, Recorded]) if path.exists() else {}


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
    return " ".join(str(error).split())[:300]


@cache
def _drive_listing(home: str) -> dict[str, Path]:
    """{id: path in the folder} of all files in a Google Drive folder and the folders in it."""
    import gdown

    files = gdown.download_folder(
        home, skip_download=True, quiet=True, use_cookies=False, timeout=TIMEOUT
    )
    return {file.id: Path(file.path) for file in files}


@dataclass(frozen=True)
class _Download:
    """Brings a file into `part`, going on where an earlier attempt ended.

    Attributes:
        public: the file, with its address.
        part: where it goes.
        most: how many bytes it can have.
        by_hand: ends the messages.
    """

    public: PublicFile
    part: Path
    most: int
    by_hand: str

    def run(self) -> None:
        """Returns once the file is there.

        Raises:
            InputError: attempts in a row brought next to nothing, or the answer is not the file.
        """
        before, failures = self._size(), 0
        while reason := self._try():
            if self._size() >= before + LEAST:
                before, failures = self._size(), 0
                continue
            failures += 1
            if failures == ATTEMPTS:
                raise self._error(
                    f"cannot be read ({reason}); the same command goes on where this one ended"
                )
            time.sleep(PAUSE * 2**failures)

    def _try(self) -> str | None:
        """One attempt; returns why it ended early, None if `part` is complete."""
        try:
            return self._fetch()
        except InputError:
            raise
        except urllib3.exceptions.ProtocolError:
            return "the connection broke"
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            # ValueError: an address to go on to that is none.
            return _first_cause(error) or type(error).__name__

    def _fetch(self) -> str | None:
        """Asks for what is missing and appends it; returns as `_try`."""
        have = self._size()
        headers = {"User-Agent": "davi", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._version.exists():  # another version of the file is sent whole
                headers["If-Range"] = self._version.read_text(encoding="utf-8")
        with requests.get(
            self.public.url, headers=headers, stream=True, timeout=TIMEOUT
        ) as response:
            status = response.status_code
            if status in _PASSING:
                return f"{status} {response.reason}"
            if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                if response.headers.get("Content-Range") == f"bytes */{have}":
                    return None
                self.part.unlink()
                return "what had arrived was longer than the file"
            self._refuse_other_content(response)
            start, total = 0, response.raw.length_remaining
            if status == http.HTTPStatus.PARTIAL_CONTENT:
                match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if match is None or int(match[1]) != have:
                    return "the server answered with another range"
                start, total = have, int(match[2])
            self._refuse_other_size(total, says_its_end=response.raw.chunked)
            if start == 0:
                self._note_version(response)
            total = total or self.public.size
            self._append(response, start, total)
        return None if total in (None, self._size()) else "the connection broke"

    def _refuse_other_content(self, response: requests.Response) -> None:
        status, headers = response.status_code, response.headers
        if status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
            raise self._error(f"answers {status} {response.reason}")
        if headers.get("Content-Type", "").lower().startswith("text/html"):
            raise self._error(
                "answers with a web page instead of the file (a question, a login or a limit on "
                "downloads)"
            )
        if (encoding := headers.get("Content-Encoding", "identity")) != "identity":
            raise self._error(f"answers with the encoding {encoding}, which was not asked for")

    def _refuse_other_size(self, total: int | None, says_its_end: bool) -> None:
        if total is None and self.public.size is None and not says_its_end:
            raise self._error("does not say how long the file is, so a broken one may be taken")
        if None not in (total, self.public.size) and total != self.public.size:
            raise self._error(f"offers {total} bytes instead of {self.public.size}")
        if total is not None and total > self.most:
            raise self._error(f"offers {total} bytes, more than {self.most}")

    def _append(self, response: requests.Response, start: int, total: int | None) -> None:
        options = {"unit": "B", "unit_scale": True, "disable": None}
        with (
            open(self.part, "r+b" if start else "wb") as stream,
            tqdm(total=total, initial=start, desc=self.part.stem, **options) as bar,
        ):
            stream.seek(start)
            # Not iter_content: at a break it drops what has come of its block.
            while block := response.raw.read1(BLOCK):
                if stream.tell() + len(block) > self.most:
                    self.part.unlink()
                    raise self._error(f"sends more than {self.most} bytes; none are kept")
                stream.write(block)
                bar.update(len(block))

    def _note_version(self, response: requests.Response) -> None:
        """Writes down what tells this version of a file from another, if the server says so."""
        tag = response.headers.get("ETag", "W/")
        # A weak tag may be shared by versions that differ in their bytes.
        version = response.headers.get("Last-Modified") if tag.startswith("W/") else tag
        if version is None:
            self._version.unlink(missing_ok=True)
        else:
            self._version.write_text(version, encoding="utf-8")

    @property
    def _version(self) -> Path:
        return _version_file(self.part)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _error(self, text: str) -> InputError:
        return InputError(f"{self.public.url}: {text}; {self.by_hand}")


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")
