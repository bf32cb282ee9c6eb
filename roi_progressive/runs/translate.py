"""Images from a trained run: a split translated both ways, with uncertainty maps beside them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..config import Config
from ..errors import DataError
from ..evaluation.image_files import list_images, read_grey
from ..evaluation.pairs import read_domains
from ..saving.checkpoint import checkpoint_name
from ..saving.locks import only_writer
from ..saving.names import DIRECTIONS, SPLITS, source_of
from ..saving.neighbour_slices import neighbours_file
from ..saving.whole_files import writing
from ..saving.written import checksum_of, new_folder, write_checksums
from .average import GENERATORS, average_file
from .folder import Run, as_batch, require_finite, write_image
from .generators import loaded_generators
from .options import TrainOptions
from .train import Report


def translate(
    run: str | Path | Run,
    split: str = "test",
    *,
    epoch: int | str | None = None,
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
        epoch: Whose networks: ``best``, ``last`` or a number; those of an opened run, or the last saved ones, by
            default.
        device: Where to compute, whatever the run was trained on: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        report: Called after every image.

    Returns:
        The folder of generated images by direction.

    Raises:
        ConfigError: This machine has no such device.
        DataError: The run or the images are missing.
        CheckpointError: A network is missing, damaged or not of finite numbers.
        DivergenceError: An image would have a number that is not finite.
    """
    if split not in SPLITS:
        raise DataError(f"`split` must be one of {', '.join(SPLITS)}; got {split!r}")
    opened = run.at_epoch(epoch) if isinstance(run, Run) else Run.open(run, epoch=epoch)
    chosen = opened.epoch
    domains = read_domains(opened.data)
    sources = {direction: opened.data / f"{split}{direction[0]}" for direction in DIRECTIONS}
    names = {direction: list_images(folder, "data") for direction, folder in sources.items()}
    with_sigma = opened.config.ggd is not None
    with ExitStack() as stack:
        stack.enter_context(only_writer(opened.folder))
        loaded = loaded_generators(opened.networks, opened.options, opened.config, chosen, device, split)
        generators = stack.enter_context(loaded)
        images, maps = ({d: place(split, d) for d in DIRECTIONS} for place in (opened.images, opened.sigma))
        folders = [*images.values(), *(maps.values() if with_sigma else ())]
        made = {folder: stack.enter_context(new_folder(folder, force=True)) for folder in folders}
        done, total = 0, sum(map(len, names.values()))
        for direction in DIRECTIONS:
            for name in names[direction]:
                file = sources[direction] / name
                source = as_batch(read_grey(file), file, opened.neighbours, generators.device)
                image, sigma = generators.translate(direction, source)
                write_image(made[images[direction]] / name, image[0])
                if sigma is not None:
                    _write_sigma(made[maps[direction]], Path(name).stem, sigma[0])
                done += 1
                if report is not None:
                    report(done, total, f"translating {domains.title(direction)}")
        origin = origin_of(opened, split, chosen)
        for folder in made.values():
            write_checksums(folder, made_by=origin)
    return images


def origin_of(run: Run, split: str, epoch: int) -> dict[str, Any]:
    """What the images of a split are made by: the epoch, and the checksums of its networks and of the sources.

    Raises:
        OSError: A file of them is missing.
    """
    folders = [run.data / f"{split}{source_of(direction)}" for direction in DIRECTIONS]
    sources = [folder / name for folder in folders for name in list_images(folder, "data")]
    sources += [neighbours_file(image) for image in sources] if run.neighbours else []
    return {
        "epoch": epoch,
        "networks": networks_of(run.networks, run.options, run.config, epoch),
        "sources": {file.relative_to(run.data).as_posix(): checksum_of(file) for file in sources},
    }


def networks_of(networks: Path, options: TrainOptions, config: Config, epoch: int) -> dict[str, str]:
    """The files of the networks that make images and sigma, by name, with their checksums.

    Args:
        networks: The folder of a run's networks.
        options: How they are built.
        config: How they were guided.
        epoch: Whose they are.

    Raises:
        OSError: A file of them is missing.
    """
    averaged = options.average_decay > 0
    files = [
        average_file(networks, epoch, name) if averaged else networks / f"{epoch}_net_{name}.pth" for name in GENERATORS
    ]
    files += [networks / checkpoint_name(epoch)] if config.ggd is not None else []
    return {file.name: checksum_of(file) for file in files}


def _write_sigma(folder: Path, stem: str, sigma: Tensor) -> None:
    write_image(folder / f"{stem}.png", sigma - 1.0)  # a sigma of 2 is the whole range, as the image's 2 from -1 to 1
    exact = folder / f"{stem}.npy"
    require_finite(sigma, exact.name)
    with writing(exact):
        np.save(exact, sigma[0].float().cpu().numpy() * 127.5)
