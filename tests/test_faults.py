"""A fault in any file that a command reads: one line, status 2, and nothing in the folder has changed.

One flipped bit, and what stands in a file's place: nothing, half of it, another file, a bottomless one, a huge one, one
of another type, one that cannot be read.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive.cli.main import main
from roi_progressive.config import Config, GGDConfig, RegionConfig
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.preparation import Preparation
from roi_progressive.host import CycleGANModel
from roi_progressive.runs.folder import Run
from roi_progressive.runs.moments import optimizers_file, save_optimizers
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.runs.validation import Validator
from roi_progressive.saving.records import read_json, write_json
from roi_progressive.saving.written import FOLDER_RECORD

pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
from volumes_at import body_in_air, write_at

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # Pillow's, of chunks and names that nobody would write
]
POSITIONS = 100 if os.environ.get("ROI_PROGRESSIVE_NIGHTLY") == "1" else 4  # of a file, besides first and last byte
EPOCH = 2

BEST = 1

EVALUATE = ("evaluate", "RUN")
EVALUATE_BEST = ("evaluate", "RUN", "--epoch", "best")
COMPARE = ("evaluate", "RUN", "--compare", "RUN")
SIGMA = ("evaluate", "RUN", "--uncertainty")
FIGURE = ("figure", "RUN", "--sigma")
RESUME = ("train", "--out", "RUN", "--resume")
TRANSLATE = (
    *("translate", "RUN/networks", "SCAN", "MADE/mr.nii.gz", "--direction", "A2B", "--data", "PREPARED"),
    *("--device", "cpu"),
)
FOLDERS = (
    *("evaluate", "--real", "DATA/testB", "--fake", "RUN/test/A2B", "--masks", "DATA/testA_tumor"),
    *("--sigma", "RUN/test/A2B_sigma", "--manifest", "DATA/manifest.json", "--out", "OUT"),
)
NETWORKS = "run/networks"
READ: dict[tuple[str, ...], tuple[str, ...]] = {
    EVALUATE: (
        "run/run.json", f"run/test/{FOLDER_RECORD}", f"{NETWORKS}/latest.json", f"{NETWORKS}/{EPOCH}_average_G_A.pth",
        f"{NETWORKS}/{EPOCH}_average_G_B.pth", f"{NETWORKS}/{EPOCH}_net_G_A.pth", f"{NETWORKS}/{EPOCH}_net_G_B.pth",
        f"{NETWORKS}/{EPOCH}_roi_progressive.pth", "data/manifest.json", "data/testA/*.png", "data/testB/*.png",
        "data/testA_tumor/*.png", "data/testB_liver/*.png", "data/trainB/*.png",
    ),
    COMPARE: ("run/test/metrics.json", "run/test/volumes.json"),
    FIGURE: (
        "run/run.json", f"{NETWORKS}/latest.json", "data/manifest.json", "run/test/A2B/*.png", "run/test/B2A/*.png",
        f"run/test/A2B/{FOLDER_RECORD}", "run/test/B2A_sigma/*.npy", f"run/test/B2A_sigma/{FOLDER_RECORD}",
        "data/testA/*.png", "data/testB/*.png", "data/testB_tumor/*.png",
    ),
    RESUME: (
        "run/run.json", f"run/{FOLDER_RECORD}", "run/history.jsonl", f"{NETWORKS}/latest.json",
        f"{NETWORKS}/{EPOCH}_net_G_A.pth",
        f"{NETWORKS}/{EPOCH}_net_D_B.pth", f"{NETWORKS}/{EPOCH}_average_G_B.pth",
        f"{NETWORKS}/{EPOCH}_roi_progressive.pth", "data/trainA/*.png", "data/trainA_tumor/*.png",
        "run/validation.jsonl", f"{NETWORKS}/best.json", f"{NETWORKS}/{BEST}_net_G_B.pth",
        f"{NETWORKS}/{BEST}_average_G_A.pth", f"{NETWORKS}/{BEST}_average_G_B.pth",
        f"{NETWORKS}/{BEST}_roi_progressive.pth", "data/valA/*.png", "data/valB_tumor/*.png",
    ),
    EVALUATE_BEST: (f"{NETWORKS}/best.json", f"{NETWORKS}/{BEST}_average_G_A.pth"),
    TRANSLATE: (
        f"{NETWORKS}/preparation.json", f"{NETWORKS}/latest.json", f"{NETWORKS}/{EPOCH}_net_G_A.pth",
        f"{NETWORKS}/{EPOCH}_average_G_A.pth", f"{NETWORKS}/{EPOCH}_roi_progressive.pth", "prepared/manifest.json",
    ),
    FOLDERS: (
        "run/test/A2B/*.png", f"run/test/A2B/{FOLDER_RECORD}", "run/test/A2B_sigma/*.npy", "data/manifest.json",
        "data/testB/*.png", "data/testA_tumor/*.png",
    ),
}  # fmt: skip
CASES = [pytest.param(command, file, id=f"{command[0]} {file}") for command, files in READ.items() for file in files]


@pytest.fixture(scope="module")
def place(small_data: Path, small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a run of it that was stopped in its third epoch, evaluated and drawn."""
    folder = tmp_path_factory.mktemp("flipped")
    shutil.copytree(small_data, folder / "data")
    region = RegionConfig("tumor", scales=1, windows_px=(24, 32), base_channels=2)
    config = Config(regions=(region,), ggd=GGDConfig(hidden_channels=2))
    options = TrainOptions(
        **small_networks, epochs=3, decay_epochs=0, batch_size=2, average_decay=0.5, validate_every=1
    )

    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("epoch 3"):
            raise KeyboardInterrupt

    def found(validator: Validator, generators: Any, seen: Any) -> dict[str, Any]:
        return {"metric": "tpsnr", "value": float(next(falling)), "scores": {}}

    falling = iter(range(3, 0, -1))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Validator, "validate", found)
        train(folder / "data", folder / "run", replace(options, save_every_epochs=1), config, report=stop)
    for command in (SIGMA, FIGURE):
        assert main(_typed(command, folder)) == 0
    write_at(folder / "scan.nii.gz", body_in_air())
    manifest = {**Preparation(PrepareOptions(size_px=32), {"A": True, "B": False}).to_record(), "mr_standard": None}
    write_json(folder / "prepared" / "manifest.json", {"kind": "prepared", **manifest, "slices": []})
    return folder


@pytest.fixture(autouse=True)
def no_weights_in_torchs_cache(tmp_path: Path) -> Iterator[None]:
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield
    torch.hub.set_dir(before)


def _typed(command: tuple[str, ...], folder: Path) -> list[str]:
    places = {"RUN": folder / "run", "DATA": folder / "data", "OUT": folder / "out"}
    places |= {"SCAN": folder / "scan.nii.gz", "PREPARED": folder / "prepared", "MADE": folder / "made"}
    words = (word.partition("/") for word in command)
    return [f"{places.get(first, first)}{slash}{rest}" for first, slash, rest in words]


def _bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _flip(whole: bytes, position: int, bit: int) -> bytes:
    return whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :]


def _positions(file: Path, whole: bytes) -> list[tuple[int, int]]:
    """The first and the last byte, and some between; of a PNG but the last four, a checksum of nothing.

    A PNG's pixels end 16 bytes before its end, with their checksum behind them, which Pillow does not look at.
    """
    stream = random.Random(file.name)
    is_png = file.suffix == ".png"
    end = len(whole) - (4 if is_png else 0)
    places = [0, end - 1, *([len(whole) - 14] if is_png else ())]
    places += [stream.randrange(1, end - 1) for _ in range(POSITIONS)]
    return [(place, stream.randrange(8)) for place in places]


def _assert_refused(arguments: list[str], folder: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = _bytes_below(folder)
    capsys.readouterr()
    status = main(arguments)
    shown = capsys.readouterr()
    last = shown.err.rstrip("\n").rpartition("\n")[2].rpartition("\r")[2]
    assert status == 2, f"{where}: status {status}: {shown}"
    assert last.startswith("roi-progressive: error: ") and "Traceback" not in shown.err, f"{where}: {shown.err}"
    assert [line for line in shown.out.splitlines() if not line.startswith("device: ")] == []  # said after a second
    assert _bytes_below(folder) == before, where


@pytest.mark.parametrize(("command", "file"), CASES)
def test_a_flipped_bit_is_one_line_and_changes_nothing(
    command: tuple[str, ...], file: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sorted(place.glob(file))[0]
    whole, status = path.read_bytes(), path.stat()
    try:
        for position, bit in _positions(path, whole):
            path.write_bytes(_flip(whole, position, bit))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            _assert_refused(_typed(command, place), place, f"bit {bit} of byte {position} of {file}", capsys)
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


# -- another file in its place -----------------------------------------------------------------------------------------

DEEP = b'{"slices": ' + b"[" * 200_000


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it has so many pixels, and holds none of them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


TEXT_BOMB = (b"zTXt", b"a\0\0" + zlib.compress(b"a" * 80_000_000))
IN_PLACE: dict[str, Callable[[Path, bytes], bytes | None]] = {
    "empty": lambda path, whole: b"",
    "cut": lambda path, whole: whole[: len(whole) // 2],
    "foreign": lambda path, whole: b"<html>\0 not what it was </html>",
    "deep": lambda path, whole: _png(32, 32, TEXT_BOMB) if path.suffix == ".png" else DEEP,
    "huge": lambda path, whole: (
        _png(60_000, 60_000) if path.suffix == ".png" else b'{"epoch": ' + b"9" * 400 + b', "slices": Infinity}\n'
    ),
    "wrong-typed": lambda path, whole: (
        b"\x93NUMPY\x01\0" if path.suffix in (".png", ".npy") else b'[{"epoch": "3", "slices": 7, "files": []}]\n'
    ),
    "unreadable": lambda path, whole: None,
}
"""By name: what stands in the place of a file; ``None`` is a folder of its name, which not even root can read."""
TURNS = [
    pytest.param(*case.values, name, id=f"{case.id} {name}")
    for place, case in enumerate(CASES)
    for turn, name in enumerate(IN_PLACE)
    if os.environ.get("ROI_PROGRESSIVE_NIGHTLY") == "1" or (place + turn) % 6 == 0
    if not (name == "unreadable" and case.values[1].startswith("run/test/") and FOLDER_RECORD not in case.values[1])
]  # an image that is gone is made anew


@pytest.mark.parametrize(("command", "file", "fault"), TURNS)
def test_another_file_in_its_place_is_one_line_and_changes_nothing(
    command: tuple[str, ...], file: str, fault: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sorted(place.glob(file))[0]
    whole, status = path.read_bytes(), path.stat()
    content = IN_PLACE[fault](path, whole)
    try:
        if content is None:
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(content)
        _assert_refused(_typed(command, place), place, f"{fault} {file}", capsys)
    finally:
        if path.is_dir():
            path.rmdir()
        path.write_bytes(whole)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


GIVEN: dict[tuple[str, ...], str] = {
    ("train", "--data", "DATA", "--out", "OUT", "--config", "GIVEN/roi.toml"): "roi.toml",
    ("train", "--data", "DATA", "--out", "OUT"): "manifest.json",
    ("check", "--host", "GIVEN", "--data", "DATA", "--config", "GIVEN/roi.toml"): "roi.toml",
    ("prepare", "GIVEN/list.csv", "OUT"): "list.csv",
    ("prepare", "GIVEN/list.csv", "OUT", "--split-file", "GIVEN/split.csv"): "split.csv",
    ("evaluate", "RUN", "--compare", "GIVEN/metrics.json"): "metrics.json",
    (*FOLDERS[:-4], "--manifest", "GIVEN/manifest.json", "--out", "OUT"): "manifest.json",
}
LINES: dict[str, bytes] = {
    "deep toml": b"a = " + b"[" * 100_000,
    "huge toml": b"seed = 1" + b"0" * 400,
    "another toml": b"regions = 3\nseed = 'x'\n",
    "deep": DEEP,
    "huge": b'{"slices": [{"name": "a", "patient": "p", "phase": "x", "region_px": 1' + b"0" * 400 + b"}]}",
    "no number": b'{"slices": [{"name": "a", "reasons": {}, "psnr": NaN}]}',
    "another type": b"[1, 2]",
    "NUL": b"patient,phase,modality,image,tumor\np,NC,CT,a\0b.nii,\n",
    "one cell of a megabyte": b"patient,split\n" + b"a" * 1_000_000 + b",train\n",
    "no text": b"\xff\xfe\0",
    "empty": b"",
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    ("command", "file"), GIVEN.items(), ids=lambda given: given if isinstance(given, str) else given[0]
)
def test_a_file_that_is_given_and_cannot_be_used_is_one_line_and_changes_nothing(
    command: tuple[str, ...], file: str, line: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
    (tmp_path / "list.csv").write_text("patient,phase,modality,image,tumor\np,NC,CT,a.nii,\n", encoding="utf-8")
    (tmp_path / file).write_bytes(LINES[line])
    manifest = place / "data" / "manifest.json"
    whole = manifest.read_bytes()
    given_typed = [word.replace("GIVEN", str(tmp_path)) for word in command]
    if file == "roi.toml" and line == "empty":
        return  # the defaults
    if command[0] == "train" and file == "manifest.json":
        manifest.write_bytes(LINES[line])
    try:
        _assert_refused(_typed(tuple(given_typed), place), place, f"{line} as {file}", capsys)
    finally:
        manifest.write_bytes(whole)


def test_a_circle_of_links_is_one_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    circle = str(tmp_path / "a" / "x")
    for arguments in (
        ["check", "--host", circle, "--data", str(place / "data")],
        ["train", "--data", circle, "--out", str(tmp_path / "run")],
        ["train", "--data", str(place / "data"), "--out", circle],
        ["prepare", circle, str(tmp_path / "out")],
        ["evaluate", circle],
    ):
        _assert_refused(arguments, place, arguments[0], capsys)


def test_what_nobody_changed_is_taken(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the test above could pass by refusing everything."""
    folder = Path(shutil.copytree(place, tmp_path / "copy"))
    write_json(folder / "run" / "run.json", {**read_json(folder / "run" / "run.json"), "data": str(folder / "data")})
    for command in (EVALUATE, COMPARE, FIGURE, FOLDERS, TRANSLATE, RESUME):
        assert main(_typed(command, folder)) == 0, capsys.readouterr().err


def test_every_file_of_a_run_that_is_read_back_is_flipped_above(place: Path) -> None:
    """A new kind of file joins the list; what is only written, for people and other programs, need not."""
    flipped = {path for files in READ.values() for pattern in files for path in place.glob(pattern)}
    flipped |= {path for path in place.glob("run/networks/*_net_*")}  # four alike, three of them above
    images = {path for path in place.glob("run/test/*_sigma/*.png")}  # beside the exact values, to look at
    images |= {path for path in place.glob("run/test/A2B_sigma/*")} | {path for path in place.glob("run/samples/*")}
    for_people = {"curves", "table", "slices", "patients", "reliability", "figure_A2B", "figure_B2A"}
    found = {path for path in (place / "run").rglob("*") if path.is_file() and path.stem not in for_people}
    found -= {path for path in place.glob("run/test/volumes.*") if path.suffix != ".json"}
    assert found - flipped - images - {place / "run/test/B2A" / FOLDER_RECORD} == set()


@pytest.fixture
def of_processes(place: Path, tmp_path: Path) -> Path:
    """The same, as several processes leave it: with the moments of the host's optimizers in a file of their own."""
    folder = Path(shutil.copytree(place, tmp_path / "copy"))
    write_json(folder / "run" / "run.json", {**read_json(folder / "run" / "run.json"), "data": str(folder / "data")})
    run = Run.open(folder / "run")
    model = CycleGANModel(run.host_options(epoch=str(EPOCH)))
    for optimizer in model.optimizers:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    save_optimizers(model, run.networks, EPOCH)
    return folder


def test_a_flipped_bit_in_the_optimizers_is_one_line_and_changes_nothing(
    of_processes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = optimizers_file(of_processes / "run" / "networks", EPOCH)
    whole = path.read_bytes()
    for position, bit in _positions(path, whole):
        path.write_bytes(_flip(whole, position, bit))
        where = f"bit {bit} of byte {position}"
        _assert_refused(_typed(RESUME, of_processes), of_processes, where, capsys)
    path.write_bytes(whole)
    assert main(_typed(RESUME, of_processes)) == 0
