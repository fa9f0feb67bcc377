"""LPIPS against piq, and what happens to the files with weights."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import davi.metrics.perceptual
from davi.data.images import save_image
from davi.folders.scoring import evaluate_folders
from davi.metrics.perceptual import Lpips, weight_path
from davi.system.errors import InputError

CPU = torch.device("cpu")


def images(count: int = 3, size: int = 64) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, size, size, generator=rng) * 2 - 1


def random_backbone() -> nn.Module:
    """The convolutions of VGG16, always with the same random weights."""
    torch.manual_seed(0)
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
    return features


@pytest.fixture
def random_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets libraries find a VGG16 with random weights."""
    monkeypatch.setattr(
        torchvision.models, "vgg16", lambda **_: SimpleNamespace(features=random_backbone())
    )


@pytest.mark.usefixtures("random_vgg")
def test_lpips_of_the_release_is_that_of_piq(monkeypatch: pytest.MonkeyPatch) -> None:
    piq = pytest.importorskip("piq")
    metric = Lpips("release", CPU)
    # The learned linear weights come with the lpips package; piq would download them.
    linear = [layer.model[-1].weight for layer in metric.model.lins]
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: linear)
    monkeypatch.setattr("piq.perceptual.vgg16", torchvision.models.vgg16)
    as_released = piq.LPIPS(
        replace_pooling=False, reduction="none", mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]
    )
    x, reference = images(), images().roll(1, 0)
    x[1, :, :32] = reference[1, :, :32] = -1  # black, where features come close to nothing
    expected = as_released(x, reference).double()
    torch.testing.assert_close(metric(x, reference), expected, rtol=1e-5, atol=1e-7)
    # The package's own normalisation is another metric.
    difference = (Lpips("vgg", CPU)(x, reference) - expected).abs() / expected
    assert (difference > 1e-3).all()


@pytest.mark.usefixtures("random_vgg")
def test_lpips_is_that_of_the_lpips_package() -> None:
    import lpips

    package = lpips.LPIPS(net="vgg", verbose=False)
    x, reference = images(), images().roll(1, 0)
    expected = package(x, reference).flatten().double()
    torch.testing.assert_close(Lpips("vgg", CPU)(x, reference), expected)


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache, and no network."""
    import urllib.request

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path / "hub"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Five images and what was restored of them."""
    for folder, factor in (("reference", 1), ("restored", 0.8)):
        (tmp_path / folder).mkdir()
        for index, image in enumerate(images(5, 24)):
            save_image(factor * image, tmp_path / folder / f"{index}.png")
    return tmp_path / "reference", tmp_path / "restored"


def test_missing_files_are_named(folders: tuple[Path, Path], no_weights: Path) -> None:
    result = evaluate_folders(*folders, ("psnr", "lpips", "fid"), device=CPU)
    assert list(result.summary) == ["psnr"]
    text = result.table()
    assert "put vgg16-397923af.pth (528 MB" in text
    assert str(no_weights / "hub/checkpoints/vgg16-397923af.pth") in text
    assert str(no_weights / "hub/checkpoints/pt_inception-2015-12-05-6726825d.pth") in text


def test_weights_of_another_hash_are_not_unpickled(no_weights: Path) -> None:
    path = weight_path("alex")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"broken off")
    with pytest.raises(InputError, match="SHA-256 does not begin with 7be5be79"):
        Lpips("alex", CPU)


def accept_any_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real weights cannot be had in a test; what it makes has another hash."""
    monkeypatch.setattr(
        davi.metrics.perceptual, "sha256_of", lambda path: path.stem.rsplit("-", 1)[1] + "..."
    )


@pytest.mark.slow
@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("variant", ["release", "alex"])  # "vgg" is the file of "release"
def test_lpips_loads_the_file_it_names(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = "alex" if variant == "alex" else "vgg"
    build = {"vgg": torchvision.models.vgg16, "alex": torchvision.models.alexnet}[net]
    torch.manual_seed(0)
    backbone = build(weights=None)
    weight_path(net).parent.mkdir(parents=True)
    torch.save(backbone.state_dict(), weight_path(net))
    accept_any_hash(monkeypatch)
    metric = Lpips(variant, CPU)
    first, second = images(2), images(2).flip(-1)
    assert metric(first, first).abs().max() < 1e-6
    assert (metric(first, second) > 1e-4).all()
    own = metric.model.net.slice1[0].weight
    torch.testing.assert_close(own, backbone.features[0].weight)


@pytest.mark.slow
@pytest.mark.usefixtures("no_weights")
def test_fid_loads_the_file_it_names_and_is_that_of_pytorch_fid(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytorch_fid import fid_score, inception

    built = []
    with monkeypatch.context() as patch:  # the network with its initial, random weights
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, _: built.append(self))
        inception.fid_inception_v3()
    weight_path("inception").parent.mkdir(parents=True)
    for parameter in built[0].parameters():
        if parameter.ndim == 4:  # torchvision's own initialisation lets the signal die out
            nn.init.kaiming_normal_(parameter)
    torch.save(built[0].state_dict(), weight_path("inception"))
    accept_any_hash(monkeypatch)
    reference, restored = folders
    same = evaluate_folders(reference, reference, ("fid",), device=CPU)
    assert same.summary["fid"]["mean"] == pytest.approx(0, abs=1e-3)
    other = evaluate_folders(reference, restored, ("fid", "kid"), device=CPU)
    network = inception.InceptionV3([3])
    truth, image = (
        fid_score.get_activations(sorted(folder.iterdir()), network, 5, num_workers=0)
        for folder in folders
    )
    means = truth.mean(axis=0), image.mean(axis=0)
    centred = truth - means[0], image - means[1]
    # The trace of the root as singular values: of five images, a matrix root is only rough.
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    traces = np.square(centred).sum() - 2 * cross
    expected = np.square(means[0] - means[1]).sum() + traces / 4
    assert other.summary["fid"]["mean"] == pytest.approx(expected, rel=1e-3)
    assert np.isfinite(other.summary["kid"]["mean"])
