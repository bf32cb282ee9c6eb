"""The demo: does guiding by regions make the tumour better? Three trainings on a phantom, from one command.

``plain`` is the CycleGAN alone, ``regions`` the same with guidance, ``placebo`` guidance by masks that were
shuffled between images: what it gains too is no gain.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import setting_checks as check
from ..config import Config, GGDConfig, RegionConfig, StageConfig
from ..data.phantom import make_phantom
from ..errors import DataError
from ..plugins.hookspecs import hookimpl
from ..runtime.parallel import Report, run_parallel
from ..saving.locks import only_writer
from ..saving.whole_files import make_folder, require_new_or_empty
from ..saving.written import check_foreign, recorded
from . import demo_report
from .evaluate import evaluate_run
from .options import TrainOptions
from .scores import RunScores
from .train import train

ARMS = ("regions", "placebo", "plain")
REGION = "tumor"


def demo_config() -> Config:
    """The paper's method at the phantom's size: 64 px instead of 256, narrower and shallower networks.

    One stride-2 layer a scale, and few channels: larger networks soon know the phantom's few tumours by heart. For two
    epochs every arm is the plain CycleGAN, to the last bit, so that all go the same way before anything of ours joins.

    Order and scales of the regions are the paper's word. In the study of ``benchmarks/EFFECT.md`` all of this gained
    7.6 dB (CT to MR) and 8.3 dB (MR to CT) of tumour PSNR over the plain CycleGAN in five seeds. The weights of liver
    and uncertainty, 0.1, are from tuning on other phantoms; the paper's 1 gained 5.9 and 8.5 dB where these gained 7.4
    and 7.9, from the same three seeds.
    """
    tumor = RegionConfig("tumor", scales=3, base_channels=8, layers=1, windows_px=(24, 32, 48, 64))
    return Config(
        regions=(replace(tumor, name="liver", scales=2, weight=0.1), tumor),
        ggd=GGDConfig(weight=0.1, stage=2),
        stages=StageConfig(from_epochs=(3, 4)),
    )


def demo_options(seed: int, epochs: int) -> TrainOptions:
    """A CycleGAN that two cores train in minutes."""
    decay = (epochs + 1) // 3
    return TrainOptions(
        channels=16,
        depth=3,
        discriminator_channels=16,
        discriminator_layers=2,
        epochs=epochs - decay,
        decay_epochs=decay,
        batch_size=2,
        learning_rate=4e-4,
        # At 10 the cycle settles, in one run of ten, on a translation that inverts the whole anatomy; the adversarial
        # terms, which can tell, come too late. The identity terms would prevent it too, for two more passes a step.
        cycle=4.0,
        identity=0.0,
        seed=seed,
        flip=False,  # the liver lies on one side; without mirroring the content cannot be mirrored either
        save_every_epochs=epochs,
    )


class ShuffledMasks:
    """A mask source that gives every image the masks of another one of its folder, never its own, by a fixed shuffle.

    Args:
        seed: Seed of the shuffle.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._orders: dict[Path, dict[str, str]] = {}

    @hookimpl
    def roi_masks(self, path: Path, regions: Sequence[str]) -> dict[str, Path | None]:
        """The masks of the image that the shuffle put in this one's place."""
        folder = path.parent
        if folder not in self._orders:
            names = sorted(file.name for file in folder.glob("*.png"))
            random.Random(self._seed).shuffle(names)
            # In one circle, so that no image keeps its own.
            self._orders[folder] = dict(zip(names, [*names[1:], *names[:1]], strict=True))
        other = self._orders[folder][path.name]
        return {region: folder.with_name(f"{folder.name}_{region}") / other for region in regions}


@dataclass(frozen=True)
class _Arm:
    name: str
    data: Path
    out: Path
    seed: int
    epochs: int
    device: str


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    epochs: int = 14,
    processes: int = 2,
    weights_dir: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    report: Callable[[float, str], None] | None = None,
    n_train: int = 24,
    n_test: int = 12,
    slices_per_patient: int = 9,
) -> dict[str, Any]:
    """Make the phantom, train the three arms, evaluate them, and write report, figures and numbers.

    Args:
        out: Folder to fill; it must be new or empty.
        seed: Seed of the phantom, the networks and the data order, the same for all arms.
        epochs: Epochs of every arm, of 54 steps of batch 2 each; at least 4.
        processes: Arms trained at a time, each on one thread in a process of its own (a script that calls this with
            1 or more needs ``if __name__ == "__main__":``); 0 trains them one by one in this process.
        weights_dir: The folder of the weights of LPIPS and FID, where they are not in the usual caches.
        device: Where to train and to make images: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        force: Use a folder that holds files; only those of an earlier demo are replaced.
        report: Called with the share done, 0 to 1, and with what is being done.
        n_train: Patients to train on, half of them seen by CT, half by MR.
        n_test: Patients to evaluate on, at least 3 so that every phase occurs.
        slices_per_patient: Slices of each patient.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        DataError: ``out`` is a file, holds files and ``force`` is not set, or there is no folder ``weights_dir``.
        ConfigError: A number is out of range.
    """
    for name, value, low in (
        ("epochs", epochs, 4),
        ("processes", processes, 0),
        ("seed", seed, 0),
        ("n_test", n_test, 3),
    ):
        check.whole("", name, value, low)
    folder = Path(out)
    require_new_or_empty(folder, force=force, remedy="use --force")
    if weights_dir is not None and not Path(weights_dir).is_dir():  # found now, not after the training
        raise DataError(f"`weights` must be a folder; {str(weights_dir)!r} is not one; give one, or leave it out")
    progress = report or (lambda share, text: None)
    files = [folder / name for name in demo_report.FILES]
    check_foreign(folder, files)
    with only_writer(folder):
        require_new_or_empty(folder, force=force, remedy="use --force")
        make_folder(folder)
        with recorded(folder, *files):
            started = time.monotonic()
            progress(0.0, "making the phantom")
            make_phantom(
                folder / "data",
                n_train=n_train,
                n_test=n_test,
                slices_per_patient=slices_per_patient,
                seed=seed,
                force=force,
            )
            arms = [_Arm(name, folder / "data", folder / name, seed, epochs, device) for name in ARMS]
            _train_all(arms, processes, progress)
            progress(0.95, "evaluating")
            scores: dict[str, RunScores] = {}
            for arm in arms:
                references = ("constant_fill", "copy_source") if arm.name == "plain" else ()
                scores[arm.name] = evaluate_run(
                    arm.out, region=REGION, references=references, volumes=(), weights_dir=weights_dir, device=device
                )
            progress(0.99, "drawing")
            minutes = (time.monotonic() - started) / 60
            return demo_report.write(folder, scores, seed=seed, epochs=epochs, minutes=minutes)


def _train_all(arms: Sequence[_Arm], processes: int, progress: Callable[[float, str], None]) -> None:
    done = dict.fromkeys((arm.name for arm in arms), 0.0)

    def report_arm(name: str, share: float, text: str) -> None:
        done[name] = share
        progress(0.03 + 0.91 * sum(done.values()) / len(arms), f"{name}: {text}")

    if processes == 0:
        for arm in arms:
            _train_arm(arm, partial(report_arm, arm.name))
    else:
        run_parallel({arm.name: partial(_train_arm, arm) for arm in arms}, processes, report_arm)


def _train_arm(arm: _Arm, report: Report) -> None:
    config = None if arm.name == "plain" else demo_config()
    plugins = [ShuffledMasks(arm.seed)] if arm.name == "placebo" else []

    options = replace(demo_options(arm.seed, arm.epochs), device=arm.device)

    def count(step: int, steps: int, text: str) -> None:
        if step % 5 == 0 or step == steps:
            report(step / steps, text)

    train(arm.data, arm.out, options, config, plugins=plugins, force=True, report=count)
