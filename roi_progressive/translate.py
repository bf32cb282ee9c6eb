"""Images from a trained run: a split translated both ways, with uncertainty maps beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import DataError
from .host import CycleGANModel, create_model
from .run import INERT, Report, read_run, saved_epoch, write_image
from .session import Session, attach


def translate(
    run: str | Path, split: str = "test", *, epoch: int | None = None, report: Report | None = None
) -> dict[str, Path]:
    """Translate a split both ways with a trained run; 8-bit PNGs under ``<run>/<split>/``.

    Where the run has uncertainty heads, sigma is written too, in grey levels.

    Args:
        run: A run's folder.
        split: ``test``, ``val`` or ``train``.
        epoch: Whose networks; the last saved ones by default.
        report: Told of every image.

    Returns:
        The folder of generated images by direction.

    Raises:
        DataError: The run or the images are missing.
        CheckpointError: A network is missing or damaged.
    """
    folder = Path(run)
    root, options, settings = read_run(folder)
    chosen = saved_epoch(folder) if epoch is None else epoch
    host_options = options.host_options(root, folder).for_test(
        phase=split, epoch=str(chosen), checkpoints_dir=str(folder)
    )
    model = create_model(host_options)
    model.setup(host_options)
    model.eval()
    folders: dict[str, Path] = {}
    session_settings = settings if settings.ggd is not None else INERT
    with attach(model, None, replace(session_settings, resume="networks" if settings.ggd else "fresh")) as session:
        names = {d: _images(root / f"{split}{d[0]}") for d in ("A2B", "B2A")}
        total, done = sum(map(len, names.values())), 0
        for direction, paths in names.items():
            folders[direction] = folder / split / direction
            for path in paths:
                image, sigma = _translated(model, session, direction, _read(path, model.device))
                write_image(folders[direction] / f"{path.stem}.png", image)
                if sigma is not None:
                    write_image(folder / split / f"{direction}_sigma" / f"{path.stem}.png", sigma - 1.0)
                done += 1
                if report is not None:
                    report(done, total, f"translating {direction}")
    return folders


def _translated(model: CycleGANModel, session: Session, direction: str, source: Tensor) -> tuple[Tensor, Tensor | None]:
    if session.config.ggd is not None:
        result = session.uncertainty(source, direction)
        return result.image[0], result.sigma[0]
    generator = model.netG_A if direction == "A2B" else model.netG_B
    with torch.no_grad():
        return generator(source)[0], None


def _images(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if not paths:
        raise DataError(
            f"`data` must hold images to translate; {str(folder)!r} has none; run `roi-progressive prepare`"
        )
    return paths


def _read(path: Path, device: torch.device) -> Tensor:
    try:
        pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float32)
    except OSError as error:
        raise DataError(f"`data` must hold readable images; {str(path)!r} is not: {error}") from error
    return torch.from_numpy(pixels / 127.5 - 1.0)[None, None].to(device)
