"""The page of `davi app`, end to end: over HTTP, and in a browser where there is one."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlparse

import pytest
import torch

from davi.app.answers import CLEAN, Answers
from davi.app.page import MAX_WAITING, serve
from davi.data.images import load_image, save_image
from davi.system.errors import InputError
from tests.conftest import REPOSITORY

pytest.importorskip("gradio", reason="needs pip install 'davi[app]'")
pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120_000  # milliseconds that a browser waits


@dataclass(frozen=True)
class Server:
    """`davi app`, running.

    Attributes:
        url: of its page.
        temporary: the folder for temporary files that it was given.
        home: of its user, and where it was started.
    """

    url: str
    temporary: Path
    home: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    temporary, home = (tmp_path_factory.mktemp(name) for name in ("temporary", "home"))
    places = {"TMPDIR": str(temporary), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "davi", "app", "--device", "cpu"],
        cwd=home,
        env={**os.environ, **places, "PYTHONPATH": path, "GRADIO_SHARE": "True"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("the page is at http://127.0.0.1:")
        yield Server(line.split()[4].rstrip(";"), temporary, home)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth picture of 64 x 80 pixels."""
    rows, columns = torch.linspace(-0.6, 0.6, 64), torch.linspace(-0.5, 0.5, 80)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    save_image((rows[:, None] * columns).expand(3, -1, -1), path)
    return path


@pytest.fixture(scope="module")
def broken(photo: Path) -> Path:
    path = photo.with_name("broken.png")
    path.write_bytes(photo.read_bytes()[:60])
    return path


class Slow(Answers):
    """Answers once it is told to.

    Attributes:
        may_end: is set when it may end.
        at_once: how many requests were open at the beginning of each.
        open: one entry for each open request.
    """

    may_end: ClassVar = threading.Event()
    at_once: ClassVar[list[int]] = []
    open: ClassVar[list[int]] = []

    def restore(self, *inputs: object) -> Iterator[dict[str, str]]:
        self.open.append(0)
        self.at_once.append(len(self.open))
        self.may_end.wait(timeout=60)
        self.open.pop()
        yield {"notes": "done"}


def test_one_request_at_a_time_and_a_bounded_queue(tmp_path: Path) -> None:
    from gradio_client import Client

    page = serve(Slow(tmp_path, "cpu", "fp32"), port=None, wait=False)
    try:
        client = Client(page.local_url, verbose=False)
        ask = partial(client.submit, None, CLEAN, "denoising", 0.1, 0, None, api_name="/restore")
        jobs = [ask()]
        until(lambda: Slow.at_once)
        jobs += [ask() for _ in range(MAX_WAITING + 1)]
        until(lambda: any(job.done() for job in jobs))
        Slow.may_end.set()
        failed = [str(error) for job in jobs if (error := job.exception(timeout=60))]
    finally:
        Slow.may_end.set()
        page.close()
    assert len(failed) == 1
    assert "full" in failed[0]
    assert Slow.at_once == [1] * (MAX_WAITING + 1)


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"^port {port} is taken; choose another --port$"):
            serve(Answers(tmp_path, "cpu", "fp32"), port, wait=False)


def until(is_so: Callable[[], object], seconds: float = 60) -> None:
    """Waits."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def require_all_pictures(archive: Path) -> None:
    """Looks into what "download everything" gives."""
    names = zipfile.ZipFile(archive).namelist()
    samples = [f"sample_{number}.png" for number in range(8)]
    assert names == ["measurement.png", *samples, "uncertainty.png"]


def test_over_http(server: Server, photo: Path, broken: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(server.url, verbose=False, download_files=tmp_path)
    ask = {"api_name": "/restore"}
    with pytest.raises(AppError, match=r"^broken\.png: not a readable image"):
        client.predict(handle_file(broken), CLEAN, "denoising", 0.2, 0, None, **ask)
    with pytest.raises(AppError, match="restore a photograph in the first tab"):
        client.predict("ddrm", 0, api_name="/solve")
    job = client.submit(handle_file(photo), CLEAN, "denoising", 0.2, 0, None, **ask)
    notes, *_, archive = job.result()
    first = job.outputs()[0]
    assert load_image(Path(first[2])).shape == (3, 64, 80)
    assert "8 of 8 samples" in notes
    require_all_pictures(Path(archive))
    line, _, solved = client.predict("pseudo_inverse", 0, api_name="/solve")
    assert line.startswith("pseudo-inverse: ")
    assert load_image(Path(solved)).shape == (3, 64, 64)
    with pytest.raises(AppError, match="needs the task super-resolution"):
        client.predict("bicubic", 0, api_name="/solve")
    assert [path for path in server.home.rglob("*") if path.is_file()] == []
    assert {path.name.startswith("davi_app_") for path in server.temporary.iterdir()} == {True}


def require_the_slider_moves(page: object) -> None:
    """Drags the line between before and after to the left."""
    image, handle = page.locator("img[style*=clip-path]").first, page.locator(".outer .inner").first
    handle.scroll_into_view_if_needed()
    before, box = image.get_attribute("style"), handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y, steps=5)
    page.mouse.up()
    shares = [
        float(re.search(r"([\d.]+)%", style)[1]) for style in (before, image.get_attribute("style"))
    ]
    assert shares[1] < shares[0] - 5


def draw_a_hole(page: object) -> None:
    """Takes the task inpainting, and draws a stroke across the picture."""
    page.get_by_label("task").click()
    page.get_by_role("option", name="inpainting").click()
    canvas = page.locator("canvas").first
    canvas.wait_for()
    page.wait_for_timeout(6000)  # until the picture is in its middle
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.42, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.58, y, steps=10)
    page.mouse.up()
    page.wait_for_timeout(2000)  # until the editor has taken the stroke


def test_in_a_browser(server: Server, photo: Path, broken: Path, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no browser: {error.message.splitlines()[0]}")
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.set_default_timeout(SECONDS)
        asked = []
        page.on("request", lambda request: asked.append(urlparse(request.url)))
        page.goto(server.url)
        page.set_input_files("input[type=file]", broken)
        page.get_by_role("button", name="Restore").click()
        page.get_by_text("broken.png: not a readable image").wait_for()
        page.get_by_label("Clear").first.click()
        page.set_input_files("input[type=file]", photo)
        page.get_by_text("photo.png").wait_for()
        page.get_by_role("button", name="Restore").click()
        page.get_by_text("uncertainty map: white is").wait_for()
        require_the_slider_moves(page)
        with page.expect_download() as download:
            page.locator("a[download='davi_restored.zip']").first.click()
        require_all_pictures(download.value.path())
        page.get_by_role("tab", name="Solvers").click()
        page.get_by_role("button", name="Solve", exact=True).click()
        page.get_by_text("DDRM: ").wait_for()
        page.get_by_role("tab", name="Restore").click()
        draw_a_hole(page)
        page.get_by_role("button", name="Restore").click()
        page.get_by_text("note: the hole is not that of the training").wait_for()
        browser.close()
    hosts = {url.hostname for url in asked if url.scheme not in ("data", "blob")}
    assert hosts == {"127.0.0.1"}
