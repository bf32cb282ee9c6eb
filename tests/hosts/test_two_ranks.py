"""Two processes train the DDP host by gloo: they stay the same, also where one of them never sees a tumour."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from roi_progressive.saving.checkpoint import load_checkpoint

HANGS_AFTER_S = 240


@pytest.fixture
def without_tumours(data: Path, tmp_path: Path) -> Path:
    root = tmp_path / "without"
    shutil.copytree(data, root)
    for path in root.glob("*_tumor/*.png"):
        with Image.open(path) as mask:
            size = mask.size
        Image.new("L", size, 0).save(path)
    return root


def _train(checkout: Path, roots: list[Path], out: Path, arguments: tuple[str, ...]) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script, processes = str(Path(__file__).with_name("rank.py")), []
    for rank, root in enumerate(roots):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        env = {**os.environ, **own, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, script, str(checkout), str(root), str(out), *arguments]
        processes.append(
            subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
        )
    try:
        said = [process.communicate(timeout=HANGS_AFTER_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(text[-3000:] for text in said)
    return [next(json.loads(line) for line in reversed(text.splitlines()) if line.startswith("{")) for text in said]


@pytest.mark.parametrize("case", ["both hold tumours", "one never holds a tumour", "none ever holds a tumour"])
@pytest.mark.parametrize("model", ["cycle_gan", "pix2pix"])
def test_ranks_stay_in_sync(
    model: str, case: str, hosts_folder: Path, data: Path, without_tumours: Path, tmp_path: Path
) -> None:
    checkout = hosts_folder / "junyanz-ddp"
    if not checkout.is_dir():
        pytest.skip("ROI_PROGRESSIVE_HOSTS holds no junyanz-ddp/")
    roots = {"both": [data, data], "one": [data, without_tumours], "none": [without_tumours, without_tumours]}
    arguments = ("--model", model, "--netG", "resnet_6blocks", "--norm", "instance", "--ngf", "4", "--ndf", "4")
    arguments += ("--load_size", "40", "--crop_size", "40", "--num_threads", "0", "--n_epochs", "2")
    arguments += ("--n_epochs_decay", "1", "--name", "run", "--input_nc", "1", "--output_nc", "1")
    reports = _train(checkout, roots[case.split()[0]], tmp_path, arguments)
    for report in reports:
        assert report["host"] == report["bank"] == report["heads"] == 0.0
        assert (report["bank_moved"] > 0) == (report["moments"] > 0) == (not case.startswith("none"))
    assert [report["own_tumours"] for report in reports] == {
        "both": [True, True],
        "one": [True, False],
        "none": [False, False],
    }[case.split()[0]]
    assert load_checkpoint(tmp_path / "run" / "3_roi_progressive.pth")["stages"]["epoch"] == 3
