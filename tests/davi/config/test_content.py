"""What a record says of an operator that is read from a file."""

import shutil
from pathlib import Path

from PIL import Image

from davi.config.content import operator_files, operator_record
from davi.config.schema import CustomOperatorConfig, InpaintingConfig
from davi.system.files import sha256_of
from davi.weights.generator_file import read_generator_file
from tests.tiny import write_tiny_generator


def test_the_content_of_an_operators_file_is_recorded_and_not_its_path(tmp_path: Path) -> None:
    file, copy = tmp_path / "a.py", tmp_path / "b.py"
    file.write_bytes(b"content")
    shutil.copy(file, copy)
    masks, codes = (
        [operator_record(make(path)) for path in (file, copy)]
        for make in (
            lambda path: InpaintingConfig(name="inpainting", mask="file", path=str(path)),
            lambda path: CustomOperatorConfig(name="custom", file=str(path)),
        )
    )
    assert masks[0] == masks[1]
    assert masks[0]["mask_sha256"] == sha256_of(file)
    assert codes[0] == codes[1]
    assert codes[0]["file"] == sha256_of(file)
    assert operator_files(InpaintingConfig(name="inpainting")) == {}


def test_a_generators_record_knows_its_mask_by_content(tiny_prior: Path, tmp_path: Path) -> None:
    mask = tmp_path / "m.png"
    Image.new("L", (16, 16), 255).save(mask)
    operator = f"operator={{name: inpainting, mask: file, path: {mask}}}"
    path = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior, operator)
    before = read_generator_file(path).record()
    assert before["operator"] == {"mask_sha256": sha256_of(mask)}
    Image.new("L", (16, 16), 0).save(mask)
    assert read_generator_file(path).record() != before
