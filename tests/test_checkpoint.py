"""Files of tensors: written aside and renamed, read without running anything, and never with a flipped bit."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from roi_progressive.config import Config, RegionConfig, StageConfig
from roi_progressive.errors import CheckpointError
from roi_progressive.saving import checkpoint, whole_files
from roi_progressive.saving.checkpoint import FORMAT, check_config, checkpoint_name, load_checkpoint, save_checkpoint

STATE = {"weights": torch.arange(6.0).view(2, 3), "nested": {"epoch": 3, 4: [1.5, None, "text", True]}}
ONE_LINE = r"\A`path` must [^\n]+; [^\n]+\Z"


def write(path: Path) -> bytes:
    save_checkpoint(path, STATE)
    return path.read_bytes()


def test_the_name_starts_with_the_epoch() -> None:
    assert checkpoint_name(100) == "100_roi_progressive.pth"
    assert checkpoint_name("latest") == "latest_roi_progressive.pth"


def test_what_was_saved_is_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "1_roi_progressive.pth"
    save_checkpoint(path, STATE)
    state = load_checkpoint(path)
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {"format": FORMAT, "nested": STATE["nested"]}
    assert os.listdir(path.parent) == [path.name]


def test_the_format_is_ours_to_write(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pth", {"format": 99})
    assert load_checkpoint(tmp_path / "a.pth") == {"format": FORMAT}


def test_a_later_save_replaces_the_file(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path / "a.pth", {"epoch": epoch})
    assert load_checkpoint(tmp_path / "a.pth")["epoch"] == 2


# -- written aside and renamed ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a signal does to a run: nothing catches it."""


@pytest.mark.parametrize("error", [Killed(), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_a_run_killed_before_the_rename_leaves_the_older_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, error: BaseException
) -> None:
    path = tmp_path / "a.pth"
    older = write(path)

    def stop(*_: object) -> None:
        assert path.read_bytes() == older, "the older file is touched before the new one is complete"
        raise error

    monkeypatch.setattr(whole_files.os, moment, stop)
    with pytest.raises(type(error)):
        save_checkpoint(path, {"weights": torch.ones(100)})
    assert path.read_bytes() == older
    assert os.listdir(tmp_path) == [path.name]


def test_what_is_renamed_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, replace = [], os.replace

    def look(source: Path, target: Path) -> None:
        read.append((load_checkpoint(source)["epoch"], source.parent == target.parent))
        replace(source, target)

    monkeypatch.setattr(whole_files.os, "replace", look)
    save_checkpoint(tmp_path / "a.pth", {"epoch": 7})
    assert read == [(7, True)], "a rename is atomic only within one folder"


def test_a_full_disk_is_a_checkpoint_error_in_one_line_and_spares_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    older = write(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(CheckpointError, match=ONE_LINE) as caught:
        save_checkpoint(path, {"epoch": 2})
    assert "No space left on device" in str(caught.value)
    assert path.read_bytes() == older
    assert os.listdir(tmp_path) == [path.name]


def test_a_read_only_folder_is_a_checkpoint_error_in_one_line_and_spares_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    older = write(path)

    def refuse(name: object, *_: object) -> None:  # by hand: no folder is read-only to root
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr(checkpoint, "open", refuse, raising=False)
    with pytest.raises(CheckpointError, match=ONE_LINE) as caught:
        save_checkpoint(path, {"epoch": 2})
    monkeypatch.undo()
    assert "Permission denied" in str(caught.value) and "an older file is untouched" in str(caught.value)
    assert path.read_bytes() == older
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_is_a_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here", encoding="utf-8")
    with pytest.raises(CheckpointError, match=ONE_LINE):
        save_checkpoint(tmp_path / "file" / "a.pth", STATE)
    with pytest.raises(CheckpointError, match=ONE_LINE):
        save_checkpoint(tmp_path, STATE)  # a folder of that name
    assert sorted(os.listdir(tmp_path)) == ["file"]


# -- read without running anything ------------------------------------------------------------------------------------


class Bomb:
    """A pickle that makes a folder when it is loaded the ordinary way."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.target,)


def bombs(folder: Path) -> list[Path]:
    """The same bomb in torch's zip format, in its old format, and as a plain pickle."""
    target = folder / "exploded"
    paths = [folder / f"{name}.pth" for name in ("zip", "legacy", "pickle")]
    torch.save({"format": FORMAT, "x": Bomb(target)}, paths[0])
    torch.save({"format": FORMAT, "x": Bomb(target)}, paths[1], _use_new_zipfile_serialization=False)
    paths[2].write_bytes(pickle.dumps({"format": FORMAT, "x": Bomb(target)}, protocol=2))
    return paths


def test_a_file_that_would_run_something_is_refused_in_one_line_and_runs_nothing(tmp_path: Path) -> None:
    for path in bombs(tmp_path):
        with pytest.raises(CheckpointError, match=ONE_LINE) as caught:
            load_checkpoint(path)
        assert not (tmp_path / "exploded").exists()
        assert path.name in str(caught.value)
        assert "weights_only" not in str(caught.value), "no word on how to run it all the same"


def test_the_bombs_are_live(tmp_path: Path) -> None:
    """Else the test above would pass whatever we did."""
    for path in bombs(tmp_path):
        if path.stem == "pickle":
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        (tmp_path / "exploded").rmdir()


def test_a_file_truncated_at_any_percent_of_its_length_is_a_checkpoint_error_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    whole = write(path)
    for percent in range(100):
        path.write_bytes(whole[: percent * len(whole) // 100])
        with pytest.raises(CheckpointError, match=ONE_LINE) as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)
    path.write_bytes(whole)
    load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_with_a_flipped_bit_is_a_checkpoint_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    whole = write(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=ONE_LINE):
            load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_an_older_file_with_a_flipped_bit_is_a_checkpoint_error_or_loads_the_very_same(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"format": FORMAT, **STATE}, path)
    whole = path.read_bytes()
    n_refused, places = 0, range(0, len(whole), 5)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            loaded = load_checkpoint(path)
        except CheckpointError as error:
            n_refused += 1
            assert "\n" not in str(error)
        else:  # padding, or a name or date that nobody reads
            assert torch.equal(loaded["weights"], STATE["weights"])  # type: ignore[arg-type]
            assert loaded["nested"] == STATE["nested"]
    assert n_refused > len(places) / 3


def test_a_flipped_bit_in_a_weight_is_what_torch_itself_does_not_see(tmp_path: Path) -> None:
    """Else the checksum would be no news."""
    path = tmp_path / "a.pth"
    whole = write(path)
    place = whole.index(torch.arange(6.0).numpy().tobytes())
    path.write_bytes(whole[: place + 6] + bytes([whole[place + 6] ^ 1]) + whole[place + 7 :])
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], STATE["weights"])  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"is damaged: its checksum does not match; take another copy of it"):
        load_checkpoint(path)
    torch.save({"format": FORMAT, **STATE}, path)  # as an older version did, without a checksum of the whole file
    older = path.read_bytes()
    assert torch.equal(load_checkpoint(path)["weights"], STATE["weights"])  # type: ignore[arg-type]
    place = older.index(torch.arange(6.0).numpy().tobytes())
    path.write_bytes(older[: place + 6] + bytes([older[place + 6] ^ 1]) + older[place + 7 :])
    with pytest.raises(CheckpointError, match=r"is damaged: bad checksum of \w+/data/0; take another copy of it"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "garbage", [b"\0" * 100, b"not a checkpoint\n" * 9, bytes(range(256)), b"PK\x03\x04" + b"x" * 60]
)
def test_garbage_is_a_checkpoint_error_in_one_line(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(garbage)
    with pytest.raises(CheckpointError, match=ONE_LINE):
        load_checkpoint(path)


def test_an_archive_of_something_else_is_a_checkpoint_error_in_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=ONE_LINE):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["nothing.pth", ""])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=ONE_LINE) as caught:
        load_checkpoint(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"format": FORMAT + 1}, f"is of format {FORMAT + 1};"),
        ({"format": torch.zeros(3)}, "is of format unknown;"),
        ({"weight": torch.zeros(3)}, "is of format unknown;"),
        ([1, 2], "is of format unknown;"),
    ],
    ids=["newer", "tensor", "a host's file", "list"],
)
def test_a_file_of_another_format_is_refused_in_one_line(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=ONE_LINE) as caught:
        load_checkpoint(tmp_path / "a.pth")
    assert found in str(caught.value)


# -- whose checkpoint it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [{"regions": (RegionConfig("tumor", scales=2),)}, {"regions": ()}, {"adversarial": "hinge"}],
    ids=["scales", "no regions", "loss"],
)
def test_a_checkpoint_of_other_networks_is_refused_in_one_line(other: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=rf"\A`config` must [^\n]+; `{next(iter(other))}` differs: [^\n]+\Z"):
        check_config(Config(**other), Config())


def test_what_does_not_belong_to_the_networks_may_change_in_a_run() -> None:
    check_config(Config(pool_size=3, seed=9, resume="exact", stages=StageConfig(fade_fraction=0.5)), Config())
