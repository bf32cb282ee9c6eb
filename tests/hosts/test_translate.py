"""``roi-progressive translate --host`` with the checkpoints of real code."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import roi_progressive
from roi_progressive.check.checkout import HostCheckout
from roi_progressive.cli.main import main
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare

sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
from volumes_at import body_in_air, geometry, mr_in_air, values, write_at  # noqa: E402

SMALL = ("--ngf", "4", "--ndf", "4", "--netG", "resnet_6blocks", "--load_size", "32", "--crop_size", "32")
CASES = {
    "classic cycle_gan": ("junyanz-classic", ("--model", "cycle_gan"), 3),
    "classic cycle_gan, grey": ("junyanz-classic", ("--model", "cycle_gan", "--input_nc", "1", "--output_nc", "1"), 1),
    "classic cycle_gan, BtoA": ("junyanz-classic", ("--model", "cycle_gan", "--direction", "BtoA"), 3),
    "DDP pix2pix": ("junyanz-ddp", ("--model", "pix2pix"), 3),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    lines = ["patient,modality,image"]
    for number in range(3):
        for modality, draw in (("CT", body_in_air), ("MR", mr_in_air)):
            write_at(folder / f"p{number}_{modality}.nii.gz", draw((3, 40, 40), number))
            lines.append(f"p{number},{modality},p{number}_{modality}.nii.gz")
    (folder / "scans.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prepare(folder / "scans.csv", folder / "data", PrepareOptions(size_px=32, paired=True))
    return folder


@contextlib.contextmanager
def host(checkout: Path, data: Path, checkpoints: Path, options: tuple[str, ...]) -> Any:
    """The host's own model, its networks saved as its train.py saves them."""
    own = ("--dataroot", str(data), "--checkpoints_dir", str(checkpoints.parent), "--name", checkpoints.name)
    found = HostCheckout(checkout)
    torch.manual_seed(3)
    with found.imported(), contextlib.redirect_stdout(io.StringIO()):
        opt = found.options([*SMALL, *options, *own, "--num_threads", "0"], "cpu")
        _, model = found.data_and_model(opt)
        model.save_networks("latest")
        yield model


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_the_host_s_generator_makes_and_its_checkpoints_stay_as_they_were(
    case: str, hosts_folder: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options, channels = CASES[case]
    is_reversed = "BtoA" in options
    direction, scan = ("B2A", "p0_MR.nii.gz") if is_reversed else ("A2B", "p0_CT.nii.gz")
    with host(hosts_folder / folder, place / "data", tmp_path / "run", options) as model:
        network = model.netG_A if hasattr(model, "netG_A") else model.netG
        roi_progressive.translate_volume(
            place / scan,
            tmp_path / "python.nii.gz",
            generator=network if channels == 1 else lambda x: network.eval()(x.expand(-1, 3, -1, -1)).detach(),
            preparation=place / "data",
            direction=direction,
        )
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    command = ["translate", str(tmp_path / "run"), str(place / scan), str(tmp_path / "typed.nii.gz"), "--direction"]
    command += [direction, "--data", str(place / "data"), "--device", "cpu", "--host", str(hosts_folder / folder)]
    assert main([*command, "--host-options", *SMALL, *options]) == 0, capsys.readouterr().err
    assert "initialize network" not in capsys.readouterr().out, "what the host prints is not ours to repeat"
    np.testing.assert_allclose(values(tmp_path / "typed.nii.gz"), values(tmp_path / "python.nii.gz"), atol=1e-3)
    assert values(tmp_path / "typed.nii.gz").std() > 0
    assert geometry(tmp_path / "typed.nii.gz") == geometry(place / scan)
    assert {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()} == before


def test_mistakes_are_one_line(
    hosts_folder: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = hosts_folder / "junyanz-classic"
    with host(checkout, place / "data", tmp_path / "run", ("--model", "pix2pix")):
        pass
    scan, out = str(place / "p0_MR.nii.gz"), str(tmp_path / "out.nii.gz")

    def said(run: Path, *more: str, code: Path = checkout, options: tuple[str, ...] = SMALL) -> str:
        command = ["translate", str(run), scan, out, "--device", "cpu", "--host", str(code), *more]
        assert main([*command, "--host-options", "--model", "pix2pix", *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not Path(out).exists()
        return error

    data = ("--data", str(place / "data"))
    assert "`--data` must be given with --host" in said(tmp_path / "run")
    assert "one that the host translates, A2B; got B2A" in said(tmp_path / "run", *data, "--direction", "B2A")
    assert "cannot be loaded" in said(tmp_path / "nowhere", *data, "--direction", "B2A")
    assert "cannot be loaded" in said(tmp_path / "run", *data, "--direction", "B2A", options=(*SMALL, "--ngf", "8"))
    assert "makes them at the first one" in said(tmp_path / "run", *data, code=hosts_folder / "cut")
    assert "lacks options.train_options" in said(tmp_path / "run", *data, code=tmp_path)
    shutil.rmtree(tmp_path / "run")


def test_neighbours_of_the_data_are_no_business_of_a_host(hosts_folder: Path, place: Path, tmp_path: Path) -> None:
    """It was trained on the single slices, which it finds in the same data set, and is given such."""
    for name, neighbours in (("single", 0), ("around", 1)):
        prepare(place / "scans.csv", tmp_path / name, PrepareOptions(size_px=32, align=True, neighbours=neighbours))
    checkout = hosts_folder / "junyanz-classic"
    options = ("--model", "cycle_gan", "--input_nc", "1", "--output_nc", "1")
    with host(checkout, tmp_path / "around", tmp_path / "run", options):
        pass
    for name in ("single", "around"):
        command = ["translate", str(tmp_path / "run"), str(place / "p0_CT.nii.gz"), str(tmp_path / f"{name}.nii.gz")]
        command += ["--direction", "A2B", "--data", str(tmp_path / name), "--device", "cpu", "--host", str(checkout)]
        assert main([*command, "--host-options", *SMALL, *options]) == 0
    np.testing.assert_array_equal(values(tmp_path / "around.nii.gz"), values(tmp_path / "single.nii.gz"))
