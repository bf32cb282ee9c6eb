"""Images from a trained run: a split translated both ways, with uncertainty maps beside them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..evaluation.image_files import list_images, read_grey
from ..host import CycleGANModel, create_model
from ..saving.names import DIRECTIONS, SPLITS
from ..saving.records import write_checksums
from ..saving.whole_files import new_folder, writing
from ..training.session import Session, attach
from .average import use_averages
from .folder import Run, write_image
from .train import INERT, Report


def translate(
    run: str | Path | Run,
    split: str = "test",
    *,
    epoch: int | None = None,
    device: str = "auto",
    report: Report | None = None,
) -> dict[str, Path]:
    """Translate a split both ways with a trained run; 8-bit PNGs under ``<run>/<split>/``, or float32 ``.npy`` where
    the data set is.

    Where the run has uncertainty heads, sigma is written too, in grey levels: rounded as PNG to look at, and exact, as
    float32 ``.npy``. The folders appear when all images are done and replace those of an earlier translation.

    Args:
        run: A run, or its folder.
        split: ``test``, ``val`` or ``train``.
        epoch: Whose networks; those of an opened run, or the last saved ones, by default.
        device: Where to compute, whatever the run was trained on: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        report: Called after every image.

    Returns:
        The folder of generated images by direction.

    Raises:
        ConfigError: This machine has no such device.
        DataError: The run or the images are missing.
        CheckpointError: A network is missing or damaged.
    """
    if split not in SPLITS:
        raise DataError(f"`split` must be one of {', '.join(SPLITS)}; got {split!r}")
    opened = run if isinstance(run, Run) else Run.open(run, epoch=epoch)
    chosen = opened.epoch if epoch is None else epoch
    sources = {direction: opened.data / f"{split}{direction[0]}" for direction in DIRECTIONS}
    names = {direction: list_images(folder, "data") for direction, folder in sources.items()}
    host_options = opened.host_options().for_test(phase=split, epoch=str(chosen), device=device)
    model = create_model(host_options)
    model.setup(host_options)
    if opened.options.average_decay > 0:
        use_averages(model, opened.networks, chosen)
    model.eval()
    with_sigma = opened.config.ggd is not None
    settings = replace(opened.config, resume="networks") if with_sigma else replace(INERT, resume="fresh")
    with ExitStack() as stack:
        session = stack.enter_context(attach(model, None, settings))
        images, maps = ({d: place(split, d) for d in DIRECTIONS} for place in (opened.images, opened.sigma))
        folders = [*images.values(), *(maps.values() if with_sigma else ())]
        made = {folder: stack.enter_context(new_folder(folder, force=True)) for folder in folders}
        done, total = 0, sum(map(len, names.values()))
        for direction in DIRECTIONS:
            for name in names[direction]:
                grey = torch.from_numpy(read_grey(sources[direction] / name))
                source = (grey / 127.5 - 1.0).float().to(model.device)[None, None]
                image, sigma = _translated(model, session, direction, source)
                write_image(made[images[direction]] / name, image)
                if sigma is not None:
                    _write_sigma(made[maps[direction]], Path(name).stem, sigma)
                done += 1
                if report is not None:
                    report(done, total, f"translating {direction}")
        for folder in made.values():
            write_checksums(folder)
    return images


def _write_sigma(folder: Path, stem: str, sigma: Tensor) -> None:
    write_image(folder / f"{stem}.png", sigma - 1.0)  # a sigma of 2 is the whole range, as the image's 2 from -1 to 1
    exact = folder / f"{stem}.npy"
    with writing(exact):
        np.save(exact, sigma[0].float().cpu().numpy() * 127.5)


def _translated(model: CycleGANModel, session: Session, direction: str, source: Tensor) -> tuple[Tensor, Tensor | None]:
    if session.config.ggd is not None:
        result = session.uncertainty(source, direction)
        return result.image[0], result.sigma[0]
    generator = model.netG_A if direction == "A2B" else model.netG_B
    with torch.no_grad():
        return generator(source)[0], None
