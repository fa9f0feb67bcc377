"""The Hugging Face Hub: a small server with its protocol stands in for it."""

import base64
import hashlib
import importlib
import json
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import davi
from davi.data.images import save_image
from davi.folders.generating import load_prior
from davi.runs.statistics import last_validation
from davi.system.errors import InputError
from davi.weights.hub import fetch
from davi.weights.network_file import PRIOR, read_header, save_weights
from guided_diffusion.presets import create_unet
from tests.tiny import tiny_prior_config, write_tiny_generator

pytest.importorskip("huggingface_hub", reason="needs pip install 'davi[hub]'")
COMMIT = "0" * 40


@dataclass
class Hub:
    """What the stand-in holds: {"user/name": {file: content}}."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """The part of the Hub's protocol that making, filling and reading a repository needs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, code: int, content: bytes = b"{}", **headers: str) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_POST(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/repos/create":
                name = "/".join(filter(None, map(json.loads(body).get, ("organization", "name"))))
                hub.repositories.setdefault(name, {})
                answer = {"url": f"http://{self.headers['Host']}/{name}"}
            elif self.path == "/api/validate-yaml":
                answer = {"errors": [], "warnings": []}
            elif "/preupload/" in self.path:
                asked = json.loads(body)["files"]
                way = {"uploadMode": "regular", "shouldIgnore": False}
                answer = {"files": [{"path": file["path"], **way} for file in asked]}
            else:
                name = re.fullmatch("/api/models/(.+)/commit/main", self.path)[1]
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        hub.repositories[name][line["value"]["path"]] = content
                address = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
                answer = {"commitUrl": address, "commitOid": COMMIT}
            self._answer(200, json.dumps(answer).encode())

        def do_GET(self) -> None:
            name = re.match(r"/(?:api/models/)?([^/]+/[^/]+)", self.path)[1]
            if name not in hub.repositories:
                self._answer(404, X_Error_Code="RepoNotFound")
            elif self.path.startswith("/api/models/"):
                files = [{"rfilename": file} for file in hub.repositories[name]]
                answer = {"id": name, "sha": COMMIT, "siblings": files}
                self._answer(200, json.dumps(answer).encode())
            else:
                file = self.path.partition("/resolve/")[2].partition("/")[2]
                content = hub.repositories[name].get(file)
                if content is None:
                    self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                    return
                hub.fetched.append(file)
                etag = f'"{hashlib.sha256(content).hexdigest()}"'
                self._answer(200, content, X_Repo_Commit=COMMIT, ETag=etag)

        do_HEAD = do_GET  # noqa: N815

    return Handler


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A server, and huggingface_hub imported anew: it reads its environment once."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    before = hub_modules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("HF_TOKEN", "hf_of_a_test")
        patch.setenv("NO_PROXY", "127.0.0.1")
        forget(before)
        yield hub
    forget(hub_modules())
    sys.modules.update(before)
    server.shutdown()
    thread.join()
    server.server_close()


def hub_modules() -> dict[str, object]:
    return {name: module for name, module in sys.modules.items() if "huggingface_hub" in name}


def forget(modules: Iterable[str]) -> None:
    for name in modules:
        del sys.modules[name]


@pytest.fixture
def hub(served: Hub) -> Hub:
    served.repositories.clear()
    served.fetched.clear()
    return served


@pytest.fixture
def generator(tiny_prior: Path, tmp_path: Path) -> Path:
    return write_tiny_generator(tmp_path / "own.safetensors", tiny_prior)


def test_what_is_pushed_restores_as_the_file_does(
    hub: Hub, generator: Path, command: object, tmp_path: Path
) -> None:
    code, text = command("push", generator, "somebody/small-x4", "--license", "mit")
    assert code == 0, text
    assert "to be used as hf:somebody/small-x4" in text
    files = hub.repositories["somebody/small-x4"]
    assert set(files) == {"small-x4.safetensors", "README.md"}
    y = torch.rand(2, 3, 4, 4) - 0.5
    expected = davi.load(generator, "cpu").restore(y)
    found = davi.load("hf:somebody/small-x4", "cpu").restore(y)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    save_image(y[0], tmp_path / "in" / "y.png")
    code, text = command(
        *("sample", "--checkpoint", "hf:somebody/small-x4", "--device", "cpu"),
        *("--input", tmp_path / "in", "--output", tmp_path / "out"),
    )
    assert code == 0, text
    assert (tmp_path / "out/y.png").exists()


def test_the_page_says_what_the_network_is(hub: Hub, generator: Path, command: object) -> None:
    code, text = command("push", generator, "somebody/small", "--license", "cc-by-4.0")
    assert code == 0, text
    page = hub.repositories["somebody/small"]["README.md"].decode()
    head, _, rest = page.removeprefix("---\n").partition("---\n")
    assert "license: cc-by-4.0\n" in head
    assert "tags: [davi, inverse-problems, diffusion, super-resolution]\n" in head
    assert "| operator | factor 4, kernel average |\n" in rest
    assert "| noise, on the [-1, 1] scale | name gaussian, sigma 0.05 |\n" in rest
    assert 'davi.load("hf:somebody/small")' in rest
    assert "davi sample --checkpoint hf:somebody/small " in rest
    assert "![" not in rest  # a file alone has no picture


@pytest.mark.slow
def test_a_run_goes_with_its_scores_and_its_picture(
    hub: Hub, tiny_prior: Path, command: object, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["train.num_iterations=2", "train.validate_every=1", f"prior.checkpoint={tiny_prior}"]
    sets = [word for option in options for word in ("--set", option)]
    code, text = command("train", "tiny", "--run-dir", run, "--device", "cpu", *sets)
    assert code == 0, text
    code, text = command("push", run, "somebody/run", "--license", "mit")
    assert code == 0, text
    files = hub.repositories["somebody/run"]
    assert files["validation.png"] == (run / "panels/iteration_0000002.png").read_bytes()
    page = files["README.md"].decode()
    last = json.loads((run / "stats.jsonl").read_text().splitlines()[-1])
    assert f"| psnr, mean of the validation images | {last['psnr']:.4g} |" in page
    assert "| training | 2 iterations |" in page
    assert "![Validation images](validation.png)" in page


def test_what_came_after_a_checkpoint_is_not_its_own(tmp_path: Path) -> None:
    assert last_validation(tmp_path, 5) == ({}, None)
    lines = ['{"iteration": 1, "psnr": 20.0, "ssim": 0.5}', '{"iteration": 2, "loss": 1.0}']
    lines += ['{"iteration": 3, "psnr": 99.0, "ssim": 1.0}', '{"iteration": 3, "ps']
    (tmp_path / "stats.jsonl").write_text("\n".join(lines))
    (tmp_path / "panels").mkdir()
    for number in (1, 3):
        (tmp_path / f"panels/iteration_000000{number}.png").touch()
    scores, picture = last_validation(tmp_path, 2)
    assert scores == {"psnr": 20.0, "ssim": 0.5}
    assert picture.name == "iteration_0000001.png"


def test_a_prior_is_found_by_its_name(hub: Hub, tiny_prior: Path, command: object) -> None:
    code, text = command("push", tiny_prior, "somebody/prior", "--license", "mit")
    assert code == 0, text
    assert (
        "davi generate hf:somebody/prior"
        in hub.repositories["somebody/prior"]["README.md"].decode()
    )
    found, own = (load_prior(name, "cpu")[0] for name in ("hf:somebody/prior", tiny_prior))
    expected = own.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())


def test_one_of_several_files_is_named(hub: Hub, generator: Path) -> None:
    content = generator.read_bytes()
    hub.repositories["a/b"] = {"x.safetensors": content, "deep/y.safetensors": content}
    with pytest.raises(InputError, match=r"holds x\.safetensors, deep/y\.safetensors; name one, "):
        fetch("hf:a/b")
    assert hub.fetched == []
    path = fetch("hf:a/b/deep/y.safetensors")
    assert path.read_bytes() == content
    assert read_header(path)[0] == "davi generator"


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("hf:a/none", None, "hf:a/none: no such repository on the Hub"),
        ("hf:a/b", {"model.pt": b"x"}, r"holds no \.safetensors file; there is model\.pt"),
        ("hf:a/b", {}, "there is nothing"),
        ("hf:a/b/c.safetensors", {}, "the repository holds no such file"),
        ("hf:a/b/model.pt", {"model.pt": b"x"}, r"only \.safetensors files are taken"),
        ("hf:a", {}, "hf:a: write it as hf:user/name"),
        ("hf:a/b c", {}, "write it as hf:user/name"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    hub: Hub, name: str, files: dict[str, bytes] | None, message: str
) -> None:
    if files is not None:
        hub.repositories["a/b"] = files
    with pytest.raises(InputError, match=message) as caught:
        davi.load(name, "cpu")
    assert "\n" not in str(caught.value)
    assert hub.fetched == []


def test_files_of_others_are_refused(hub: Hub, tmp_path: Path) -> None:
    from safetensors.torch import save

    hub.repositories["a/b"] = {"model.safetensors": save({"weight": torch.zeros(2)})}
    with pytest.raises(InputError, match=r"its model\.safetensors was not written by davi"):
        davi.load("hf:a/b", "cpu")


def test_without_a_network_what_is_in_the_cache_is_there(
    hub: Hub, generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["a/b"] = {"x.safetensors": generator.read_bytes()}
    fetch("hf:a/b/x.safetensors")
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("hf:a/b/x.safetensors").read_bytes() == generator.read_bytes()
    with pytest.raises(InputError, match=r"^hf:a/b: the Hub cannot be used .*hf:user/name/FILE"):
        fetch("hf:a/b")
    with pytest.raises(InputError, match="the Hub cannot be reached; it is not in the cache"):
        fetch("hf:a/b/y.safetensors")


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'davi\[hub\]'$"):
        davi.load("hf:somebody/something", "cpu")


def test_a_file_that_does_not_say_what_it_is_stays_here(
    hub: Hub, command: object, tmp_path: Path
) -> None:
    weights = create_unet(tiny_prior_config().network.unet()).state_dict()
    path = tmp_path / "bare.safetensors"
    save_weights(path, weights, kind=PRIOR, config=None, iteration=None, dtype="float16")
    code, text = command("push", path, "somebody/bare", "--license", "mit")
    assert code == 2
    assert text.strip().endswith("does not say what it holds; give what davi import makes of it")
    assert hub.repositories == {}


def test_a_picture_may_be_named(hub: Hub, generator: Path, command: object, tmp_path: Path) -> None:
    words = ("push", generator, "somebody/x4", "--license", "mit", "--picture")
    code, text = command(*words, tmp_path / "none.png")
    assert code == 2
    assert text.strip().endswith("none.png: --picture needs a PNG file")
    assert hub.repositories == {}
    save_image(torch.zeros(3, 4, 4), tmp_path / "own.png")
    code, text = command(*words, tmp_path / "own.png")
    assert code == 0, text
    files = hub.repositories["somebody/x4"]
    assert files["validation.png"] == (tmp_path / "own.png").read_bytes()
    assert "](validation.png)" in files["README.md"].decode()
