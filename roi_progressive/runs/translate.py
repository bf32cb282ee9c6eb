"""Images from a trained run: a split translated both ways, with uncertainty maps beside them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.layout import new_folder
from ..errors import DataError
from ..evaluation.image_files import list_images, read_grey
from ..host import CycleGANModel, create_model
from .train import INERT, Report
from .average import use_averages
from ..saving.names import DIRECTIONS, SPLITS
from .folder import read_run, require_data, required_epoch, write_image
from ..training.session import Session, attach


def translate(
    run: str | Path, split: str = "test", *, epoch: int | None = None, report: Report | None = None
) -> dict[str, Path]:
    """Translate a split both ways with a trained run; 8-bit PNGs under ``<run>/<split>/``, or float32 ``.npy`` where
    the data set is.

    Where the run has uncertainty heads, sigma is written too, in grey levels: rounded as PNG to look at, and exact, as
    float32 ``.npy``. The folders appear when all images are done and replace those of an earlier translation.

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
    if split not in SPLITS:
        raise DataError(f"`split` must be one of {', '.join(SPLITS)}; got {split!r}")
    folder = Path(run)
    root, options, settings = read_run(folder)
    chosen = required_epoch(folder) if epoch is None else epoch
    require_data(root, folder)
    names = {direction: list_images(root / f"{split}{direction[0]}", "data") for direction in DIRECTIONS}
    host_options = options.host_options(root, folder).for_test(phase=split, epoch=str(chosen))
    model = create_model(host_options)
    model.setup(host_options)
    if options.average_decay > 0:
        use_averages(model, folder / "networks", chosen)
    model.eval()
    with_sigma = settings.ggd is not None
    settings = replace(settings, resume="networks") if with_sigma else replace(INERT, resume="fresh")
    with ExitStack() as stack:
        session = stack.enter_context(attach(model, None, settings))
        out = {
            name: stack.enter_context(new_folder(folder / split / name, force=True))
            for direction in DIRECTIONS
            for name in ((direction, f"{direction}_sigma") if with_sigma else (direction,))
        }
        done, total = 0, sum(map(len, names.values()))
        for direction in DIRECTIONS:
            for name in names[direction]:
                grey = torch.from_numpy(read_grey(root / f"{split}{direction[0]}" / name))
                source = (grey / 127.5 - 1.0).float().to(model.device)[None, None]
                image, sigma = _translated(model, session, direction, source)
                write_image(out[direction] / name, image)
                if sigma is not None:
                    _write_sigma(out[f"{direction}_sigma"], Path(name).stem, sigma)
                done += 1
                if report is not None:
                    report(done, total, f"translating {direction}")
    return {direction: folder / split / direction for direction in DIRECTIONS}


def _write_sigma(folder: Path, stem: str, sigma: Tensor) -> None:
    write_image(folder / f"{stem}.png", sigma - 1.0)  # a sigma of 2 is the whole range, as the image's 2 from -1 to 1
    np.save(folder / f"{stem}.npy", sigma[0].float().cpu().numpy() * 127.5)


def _translated(model: CycleGANModel, session: Session, direction: str, source: Tensor) -> tuple[Tensor, Tensor | None]:
    if session.config.ggd is not None:
        result = session.uncertainty(source, direction)
        return result.image[0], result.sigma[0]
    generator = model.netG_A if direction == "A2B" else model.netG_B
    with torch.no_grad():
        return generator(source)[0], None
