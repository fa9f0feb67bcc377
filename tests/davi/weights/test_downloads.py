"""Public files from a server that keeps its promises, and from others."""

import contextlib
import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gdown
import pytest
import requests

from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config
from davi.system.errors import InputError
from davi.weights import downloads
from davi.weights.downloads import PUBLIC_FILES, PublicFile, obtain
from tests.conftest import REPOSITORY

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 2000
MINE = CONTENT[:8]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = PublicFile("sub/weights.pt", "https://page", size=len(CONTENT), sha256=SHA256)


@dataclass
class Server:
    """What the server answers, and what it was asked.

    Attributes:
        url: of its one file.
        content: of the file.
        cuts: for the next answers, after how many bytes the connection breaks; None: never.
        ranges: whether it can begin in the middle.
        status: of every answer, if it is an error.
        kind: content type.
        tag: ETag of the content.
        asked: the Range headers so far.
        paths: what was asked for so far.
        pages: of Google Drive folders, by their ids.
        raw: every answer, instead of all this, repeated for as long as somebody reads if `endless`.
    """

    url: str = ""
    content: bytes = CONTENT
    cuts: list[int | None] = field(default_factory=list)
    ranges: bool = True
    status: int = 200
    kind: str = "application/octet-stream"
    tag: str | None = None
    asked: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    endless: bool = False

    def show_folder(self, request: BaseHTTPRequestHandler) -> None:
        page = self.pages.get(request.path.partition("?id=")[2])
        if page is None:
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Type", "text/html; charset=utf-8")
        request.end_headers()
        request.wfile.write(page.encode())

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.paths.append(request.path)
        if request.path.startswith("/embeddedfolderview"):
            self.show_folder(request)
            return
        header = request.headers["Range"]
        self.asked.append(header)
        if self.raw is not None:
            request.wfile.write(self.raw)
            with contextlib.suppress(ConnectionError):
                while self.endless:
                    request.wfile.write(CONTENT)
            return
        if self.status != 200:
            request.send_error(self.status)
            return
        start, total = 0, len(self.content)
        if header and self.ranges and request.headers["If-Range"] in (None, self.tag):
            start = int(header.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{total}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            request.send_response(200)
        request.send_header("Content-Type", self.kind)
        if self.tag is not None:
            request.send_header("ETag", self.tag)
        request.send_header("Content-Length", str(total - start))
        request.end_headers()
        cut = self.cuts.pop(0) if self.cuts else None
        request.wfile.write(self.content[start : None if cut is None else start + cut])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server in a thread of its own."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "PAUSE", 0)
    monkeypatch.setattr(downloads, "LEAST", 100)
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{listener.server_port}/weights.pt"
    # Polled often, or every test would end by a wait of half a second.
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    yield state
    listener.shutdown()
    listener.server_close()


def folder_page(name: str, files: dict[str, str], folders: dict[str, str]) -> str:
    """What Google Drive shows of a folder: {name: id} of what lies in it."""
    links = [(f"file/d/{id}/view?usp=drive_web", file) for file, id in files.items()]
    links += [(f"drive/folders/{id}", folder) for folder, id in folders.items()]
    entries = "".join(f'<a href="https://drive.google.com/{to}">{text}</a>' for to, text in links)
    return f"<html><head><title>{name}</title></head><body>{entries}</body></html>"


@pytest.fixture
def drive(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server in place of Google Drive, with a folder of generators."""
    base, get = server.url.rsplit("/", 1)[0], requests.Session.get

    def get_here(session: requests.Session, url: str, **options: object) -> requests.Response:
        return get(session, url.replace("https://drive.google.com", base), **options)

    monkeypatch.setattr(requests.Session, "get", get_here)
    monkeypatch.setattr(downloads, "DRIVE_FILE", f"{base}/download?id={{}}")
    downloads._drive_listing.cache_clear()
    ids = {name: f"{name:-<30}" for name in ("top", "ffhq", "imagenet", "ours", "other", "deno")}
    files = {"ffhq": {"weights.pt": ids["ours"]}}
    files["imagenet"] = {"weights.pt": ids["other"], "deno.pt": ids["deno"]}
    server.pages = {ids[name]: folder_page(name, files[name], {}) for name in files}
    server.pages[ids["top"]] = folder_page("top", {}, {name: ids[name] for name in files})
    return server


IN_DRIVE = PublicFile("ffhq/weights.pt", downloads.DRIVE_FOLDER.format(f"{'top':-<30}"))


def get(server: Server, folder: Path, **changes: object) -> str:
    return obtain("weights", replace(FILE, url=server.url, **changes), folder)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_file_arrives_whole_and_is_recorded(server: Server, tmp_path: Path) -> None:
    message = get(server, tmp_path)
    assert (tmp_path / "sub/weights.pt").read_bytes() == CONTENT
    assert files(tmp_path) == {"sub/weights.pt", "downloads.json"}
    assert SHA256 in message
    record = json.loads((tmp_path / "downloads.json").read_text())
    assert record == {"weights": {"file": FILE.file, "bytes": len(CONTENT), "sha256": SHA256}}
    assert "is there already" in get(server, tmp_path)
    assert server.asked == [None]


def test_broken_connections_are_gone_on_from(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000, 7, 0, 200_000]
    get(server, tmp_path)
    assert (tmp_path / "sub/weights.pt").read_bytes() == CONTENT
    begins = [None, 1000, 1007, 1007, 201_007]
    assert server.asked == [begin and f"bytes={begin}-" for begin in begins]


def test_two_versions_of_a_file_are_not_mixed(server: Server, tmp_path: Path) -> None:
    server.cuts, server.tag = [1000, 0, 0, 0, 0], '"first"'
    with pytest.raises(InputError, match="the connection broke"):
        get(server, tmp_path, sha256=None)
    server.content, server.tag = CONTENT[:4] + CONTENT[:3:-1], '"second"'
    get(server, tmp_path, sha256=None)
    assert (tmp_path / "sub/weights.pt").read_bytes() == server.content
    assert files(tmp_path) == {"sub/weights.pt", "downloads.json"}


def test_a_later_command_goes_on_where_one_ended(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000, 0, 0, 0, 0]
    with pytest.raises(InputError, match=r"the connection broke.*goes on where this one ended"):
        get(server, tmp_path)
    assert (tmp_path / "sub/weights.pt.part").read_bytes() == CONTENT[:1000]
    assert files(tmp_path) == {"sub/weights.pt.part"}
    server.asked.clear()
    get(server, tmp_path)
    assert server.asked == ["bytes=1000-"]
    assert files(tmp_path) == {"sub/weights.pt", "downloads.json"}


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_that_is_complete_is_taken(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges = ranges
    part = tmp_path / "sub/weights.pt.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    get(server, tmp_path)
    assert (tmp_path / "sub/weights.pt").read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_longer_than_the_file_is_begun_anew(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    server.ranges = ranges
    part = tmp_path / "sub/weights.pt.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT + b"more")
    get(server, tmp_path)
    assert (tmp_path / "sub/weights.pt").read_bytes() == CONTENT


def test_a_server_without_ranges_is_asked_for_the_whole(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [300_000, 1000, None]
    get(server, tmp_path)
    assert (tmp_path / "sub/weights.pt").read_bytes() == CONTENT
    assert len(server.asked) == 3


@pytest.mark.parametrize("published", [True, False])
def test_a_wrong_hash_is_refused_and_nothing_kept(
    server: Server, tmp_path: Path, published: bool
) -> None:
    changes = {}
    if not published:  # the first download says what is right
        changes = {"sha256": None, "size": None}
        get(server, tmp_path, **changes)
        (tmp_path / "sub/weights.pt").unlink()
    server.content = CONTENT[:-1] + b"x"
    origin = "published" if published else r"recorded \(in .*downloads\.json\)"
    with pytest.raises(InputError, match=rf"its SHA-256 is \w+, not the {origin} {SHA256}"):
        get(server, tmp_path, **changes)
    assert "sub/weights.pt" not in files(tmp_path)
    assert "sub/weights.pt.part" not in files(tmp_path)


def test_a_wrong_size_is_refused_before_the_download(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:5000]
    with pytest.raises(InputError, match=f"offers 5000 bytes instead of {len(CONTENT)}; by hand"):
        get(server, tmp_path)
    assert files(tmp_path) == set()


def test_a_recorded_size_holds_too(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path, size=None, sha256=None)
    (tmp_path / "sub/weights.pt").unlink()
    server.content = CONTENT[:5000]
    with pytest.raises(
        InputError, match=rf"has 5000 bytes, not the recorded .* {len(CONTENT)}; this copy"
    ):
        get(server, tmp_path, size=None, sha256=None)


@pytest.mark.parametrize("honest", [True, False])
def test_a_web_page_is_no_weight_file(server: Server, tmp_path: Path, honest: bool) -> None:
    server.content = b"\n<!DOCTYPE html><html>Google Drive can't scan this file for viruses</html>"
    server.kind = "text/html; charset=utf-8" if honest else "application/octet-stream"
    expected = "answers with a web page instead" if honest else "is no weight file of PyTorch"
    with pytest.raises(InputError, match=expected):
        get(server, tmp_path, size=None, sha256=None)
    assert files(tmp_path) == set()


def said(status: str, *headers: str, body: bytes = b"") -> bytes:
    """An answer, byte by byte."""
    lines = "\r\n".join([f"HTTP/1.1 {status}", *headers])
    return f"{lines}\r\n\r\n".encode() + body


def whole(body: bytes, *headers: str) -> bytes:
    return said("200 OK", f"Content-Length: {len(body)}", *headers, body=body)


def sent_to(place: str) -> bytes:
    return said("302 Found", f"Location: {place}", "Connection: close")


NO_WEIGHTS = {
    "nothing": (whole(b""), "its 0 bytes begin with b''"),
    "no content": (said("204 No Content"), "answers 204 No Content"),
    "JSON": (whole(b'{"error": "quota"}'), 'begin with b\'{"error"'),
    "HTML after a comment": (whole(b"<!-- x --><html></html>"), "begin with b'<!-- x -->"),
    "HTML after a mark": (whole(b"\xef\xbb\xbf<html></html>"), r"begin with b'\\xef"),
    "a packed file": (whole(gzip.compress(CONTENT)), r"begin with b'\\x1f\\x8b"),
    "a packed answer": (
        whole(gzip.compress(CONTENT), "Content-Encoding: gzip"),
        "answers with the encoding gzip",
    ),
    "no length": (said("200 OK", body=CONTENT), "does not say how long the file is"),
    "length abc": (said("200 OK", "Content-Length: abc", body=CONTENT), "does not say how long"),
    "a huge length": (
        said("200 OK", f"Content-Length: {10**17}"),
        "offers 10{17} bytes, more than",
    ),
    "a length of 5000 digits": (
        said("200 OK", f"Content-Length: {'9' * 5000}"),
        "not say how long",
    ),
    "a range of 5000 digits": (
        said("206 Partial Content", f"Content-Range: bytes 0-1/{'9' * 5000}"),
        "answered with another range",
    ),
    "a chunk of -5": (
        said("200 OK", "Transfer-Encoding: chunked", body=b"-5\r\n" + MINE),
        "cannot be read",
    ),
    "a chunk of x": (
        said("200 OK", "Transfer-Encoding: chunked", body=b"x\r\n" + MINE),
        "cannot be read",
    ),
    "no HTTP": (b"hello", "the connection broke|cannot be read"),
    "another protocol": (sent_to("ftp://127.0.0.1/weights.pt"), "cannot be read.*adapters.*ftp"),
    "a local file": (sent_to("file:///etc/passwd"), "cannot be read.*adapters.*file"),
    "no address": (sent_to("http://[x/"), "cannot be read"),
    "no host": (sent_to("http://a..b/"), "cannot be read"),
    "no port": (sent_to("http://127.0.0.1:99999999/"), "cannot be read"),
    "a circle": (sent_to("/weights.pt"), "cannot be read .*30 redirects"),
    "a colour": (said("404 \x1b[31mred", "Content-Length: 0"), r"answers 404 \\x1b\[31mred"),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_weight_file_is_refused_in_one_line(
    kind: str, server: Server, tmp_path: Path
) -> None:
    server.raw, expected = NO_WEIGHTS[kind]
    with pytest.raises(InputError, match=expected) as caught:
        get(server, tmp_path, size=None, sha256=None)
    assert str(caught.value).isprintable()
    assert "sub/weights.pt" not in files(tmp_path)
    assert "downloads.json" not in files(tmp_path)


@pytest.mark.parametrize("published", [True, False])
def test_an_endless_answer_is_not_kept(
    server: Server, tmp_path: Path, published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MOST", 3 * len(CONTENT))
    size = FILE.size if published else None
    headers = () if published else ("Transfer-Encoding: chunked",)
    server.raw = said("200 OK", *headers, body=b"" if published else b"fffffffff\r\n")
    server.endless = True
    most = len(CONTENT) * (1 if published else 3)
    with pytest.raises(InputError, match=f"sends more than {most} bytes; none are kept; by hand"):
        get(server, tmp_path, size=size)
    assert files(tmp_path) == set()


def test_a_file_is_not_fetched_byte_by_byte(server: Server, tmp_path: Path) -> None:
    server.cuts = [1] * 1000
    with pytest.raises(InputError, match="the connection broke"):
        get(server, tmp_path)
    assert len(server.asked) == downloads.ATTEMPTS


def test_a_published_size_stands_in_for_a_length_that_is_none(
    server: Server, tmp_path: Path
) -> None:
    server.raw = said("200 OK", "Content-Length: abc", body=CONTENT)
    get(server, tmp_path)
    assert (tmp_path / "sub/weights.pt").read_bytes() == CONTENT


def test_a_web_page_does_not_end_what_has_arrived(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "sub/weights.pt.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:1000])
    server.kind, server.ranges = "text/html", False
    with pytest.raises(InputError, match="answers with a web page instead"):
        get(server, tmp_path)
    assert part.read_bytes() == CONTENT[:1000]


def test_a_file_in_google_drive_is_found_by_its_name(drive: Server, tmp_path: Path) -> None:
    drive.cuts = [1000]
    message = obtain("weights", IN_DRIVE, tmp_path)
    assert (tmp_path / "ffhq/weights.pt").read_bytes() == CONTENT
    assert SHA256 in message
    assert drive.asked == [None, "bytes=1000-"]
    assert drive.paths[-2:] == [f"/download?id={'ours':-<30}"] * 2
    views = len(drive.paths)
    obtain("other", replace(IN_DRIVE, file="imagenet/weights.pt"), tmp_path)
    assert drive.paths[views:] == [f"/download?id={'other':-<30}"]  # the folder is listed once


@pytest.mark.parametrize(("file", "number"), [("deno.pt.old", "no"), ("weights.pt", "2")])
def test_a_name_that_is_not_in_the_folder_once_is_refused(
    drive: Server, tmp_path: Path, file: str, number: str
) -> None:
    among = "ffhq/weights.pt, imagenet/weights.pt, imagenet/deno.pt"
    with pytest.raises(InputError, match=f"holds {number} {file} among {among}; by hand: get"):
        obtain("weights", replace(IN_DRIVE, file=file), tmp_path)
    assert files(tmp_path) == set()


def test_a_folder_that_cannot_be_listed_is_said_in_one_line(
    drive: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obtain_it = partial(obtain, "weights", IN_DRIVE, tmp_path)
    drive.pages.clear()
    with pytest.raises(InputError, match=r"cannot be listed \(.*status code 404") as closed:
        obtain_it()
    monkeypatch.setattr(requests.Session, "get", without_network)
    with pytest.raises(InputError, match=r"listed \(\[Errno \d+\] Connection refused\)") as offline:
        obtain_it()
    monkeypatch.setattr(gdown, "download_folder", of_many_lines)
    with pytest.raises(InputError, match=r"cannot be listed \(The folder is closed\)") as long:
        obtain_it()
    for message in (str(caught.value) for caught in (closed, offline, long)):
        assert message.startswith(IN_DRIVE.home)
        assert message.endswith("DIR as ffhq/weights.pt and add --from DIR")
        assert len(message.splitlines()) == 1
    assert files(tmp_path) == set()


def without_network(*_: object, **__: object) -> requests.Response:
    return requests.get("http://127.0.0.1:9", timeout=1)


def of_many_lines(*_: object, **__: object) -> None:
    raise gdown.DownloadError("The folder\n\n\tis closed\n")


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 4)])
def test_refusals_are_said_in_one_line(
    server: Server, tmp_path: Path, status: int, requests: int
) -> None:
    server.status = status
    with pytest.raises(InputError, match=rf"{status}.*by hand: get weights\.pt from https://page"):
        get(server, tmp_path)
    assert len(server.asked) == requests


def test_without_a_network_the_steps_by_hand_are_named(server: Server, tmp_path: Path) -> None:
    offline = replace(FILE, url="http://127.0.0.1:9/weights.pt")
    with pytest.raises(InputError, match="cannot be read") as caught:
        obtain("weights", offline, tmp_path)
    message = str(caught.value)
    assert f"put it at {tmp_path / 'sub/weights.pt'}" in message
    assert "--from DIR" in message
    assert len(message.splitlines()) == 1


def test_existing_files_are_never_changed(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "sub/weights.pt"
    path.parent.mkdir()
    path.write_bytes(MINE)
    with pytest.raises(
        InputError, match=r"has 8 bytes, not the published .* left as it is; move it away"
    ):
        get(server, tmp_path)
    assert path.read_bytes() == MINE
    assert "is there already" in get(server, tmp_path, size=None, sha256=None)
    path.write_bytes(MINE[::-1])
    with pytest.raises(InputError, match="left as it is"):
        get(server, tmp_path, size=None, sha256=None)
    assert path.read_bytes() == MINE[::-1]
    assert server.asked == []


def test_a_folder_stands_in_for_the_network(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    (source / "sub").mkdir(parents=True)
    (source / "sub/weights.pt").write_bytes(CONTENT)
    for given in (source, source / "sub"):
        obtain("weights", FILE, folder, given)
        assert (folder / "sub/weights.pt").read_bytes() == CONTENT
        (folder / "sub/weights.pt").unlink()
    (source / "sub/weights.pt").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(InputError, match="its SHA-256 is"):
        obtain("weights", FILE, folder, source)
    assert files(folder) == {"downloads.json"}
    with pytest.raises(InputError, match=r"sub/weights\.pt; DIR must contain the sub-folder sub"):
        obtain("weights", FILE, folder, tmp_path)
    (source / "sub/weights.pt").unlink()
    for given, file in ((source, FILE), (source / "sub", FILE), (source, replace(FILE, file="w"))):
        with pytest.raises(InputError, match=f"{given}: holds no {file.file}$"):
            obtain("weights", file, folder, given)


@pytest.mark.parametrize("record", ["", "{", "[]", "5", '{"weights": {"bytes": "5"}}', '{"a": 1}'])
def test_a_damaged_record_is_named(record: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "downloads.json").write_text(record)
    with pytest.raises(InputError, match=r"downloads\.json: damaged \(.*\); mend or remove it"):
        get(server, tmp_path)
    assert (tmp_path / "downloads.json").read_text() == record
    assert server.asked == []


def test_the_published_files_are_those_the_configs_name() -> None:
    for data in ("ffhq", "imagenet"):
        path = REPOSITORY / f"configs/{data}_super_resolution.yaml"
        named = load_config(path, RunConfig).prior.checkpoint
        assert named == f"checkpoints/{PUBLIC_FILES[f'{data}_prior'].file}"
    assert len({public.file for public in PUBLIC_FILES.values()}) == len(PUBLIC_FILES) == 12


def test_every_file_has_an_address_or_lies_in_google_drive() -> None:
    for public in PUBLIC_FILES.values():
        assert public.url is not None or public.home.startswith(downloads.DRIVE_FOLDER[:-2])


def test_the_script_goes_on_after_a_failure(
    script: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests.Session, "get", without_network)
    folder = tmp_path / "from"
    folder.mkdir()
    (folder / "ffhq_10m.pt").write_bytes(MINE)
    output = tmp_path / "checkpoints"
    command = ("download", "--from", folder, "--output", output)
    code, text = script(*command, "ffhq_gaussian", "ffhq_prior")
    assert code == 1
    assert f"error: ffhq_gaussian: {folder}: holds no ffhq/gaussian_ema.pt" in text
    assert (output / "ffhq_10m.pt").read_bytes() == MINE
    assert script(*command, "ffhq_gaussian")[0] == 2
    code, text = script("download", "--output", output, "imagenet_deno")
    assert code == 2
    assert "get deno_ema.pt from https://drive.google.com/drive/folders/" in text
    code, text = script("download", "--output", output, "--list")
    assert code == 0
    assert [line.split()[1] for line in text.splitlines()].count("there") == 1
    code, text = script(*command, "ffhq")
    assert code == 2
    assert "ffhq: unknown; choose from ffhq_prior" in text
