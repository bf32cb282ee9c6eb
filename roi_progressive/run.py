"""A training run of the bundled host in a folder: train, stop, resume, translate.

A run folder holds ``run.json`` (what was asked for), ``networks/`` (the host's checkpoints, ours beside them),
``history.jsonl`` (one line an epoch), ``samples/`` (pictures while it trains) and, once translated,
``<split>/A2B/``, ``<split>/B2A/`` with the generated images and ``<split>/A2B_sigma/``, ... with uncertainty maps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .config import Config
from .errors import CheckpointError, ConfigError, DataError
from .host import CycleGANModel, HostOptions, create_dataset, create_model
from .session import Session, attach

INERT = Config(regions=(), ggd=None)
Report = Callable[[int, int, str], None]
"""Called after every step with steps done, steps in all, and what is being done."""


@dataclass(frozen=True)
class TrainOptions:
    """How the bundled CycleGAN trains.

    Args:
        generator: ``unet`` (the paper's) or ``resnet``.
        channels: Channels of the generators at full resolution.
        depth: How often the UNet halves the image.
        discriminator_channels: Channels of the whole-image discriminators' first layer.
        discriminator_layers: Their layers of stride 2.
        epochs: Epochs at the full learning rate.
        decay_epochs: Epochs over which it falls to zero.
        batch_size: Images of each domain a step.
        learning_rate: Adam's.
        cycle: Weight of the cycle terms.
        identity: Weight of the identity terms as a share of the cycle's; 0 saves two of six generator passes.
        flip: Mirror half of the images.
        seed: Seeds networks and data order.
        workers: Processes that load images.
        save_every_epochs: How often networks are saved and samples drawn; the last epoch always is.
    """

    generator: str = "unet"
    channels: int = 32
    depth: int = 4
    discriminator_channels: int = 32
    discriminator_layers: int = 3
    epochs: int = 100
    decay_epochs: int = 100
    batch_size: int = 1
    learning_rate: float = 2e-4
    cycle: float = 10.0
    identity: float = 0.5
    flip: bool = True
    seed: int = 0
    workers: int = 0
    save_every_epochs: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.save_every_epochs, int) or self.save_every_epochs < 1:
            raise ConfigError(
                f"`save_every_epochs` must be a whole number of at least 1; got {self.save_every_epochs!r}"
            )

    def host_options(self, data: Path, run: Path, **changes: Any) -> HostOptions:
        """The host's own options for a run."""
        return HostOptions(
            dataroot=str(data),
            checkpoints_dir=str(run),
            name="networks",
            netG=self.generator,
            ngf=self.channels,
            unet_depth=self.depth,
            ndf=self.discriminator_channels,
            n_layers_D=self.discriminator_layers,
            n_epochs=self.epochs,
            n_epochs_decay=self.decay_epochs,
            batch_size=self.batch_size,
            lr=self.learning_rate,
            lambda_A=self.cycle,
            lambda_B=self.cycle,
            lambda_identity=self.identity,
            no_flip=not self.flip,
            seed=self.seed,
            num_threads=self.workers,
            **changes,
        )


def train(
    data: str | Path,
    out: str | Path,
    options: TrainOptions | None = None,
    config: Config | None = None,
    *,
    plugins: Iterable[Any] = (),
    force: bool = False,
    report: Report | None = None,
) -> None:
    """Train from the beginning.

    Args:
        data: Folder with ``trainA``, ``trainB`` and, for every region, ``trainA_<region>``, ``trainB_<region>``.
        out: The run's folder; must be new or empty.
        options: The host's.
        config: The regions'; ``None`` trains the plain host.
        plugins: For the session.
        force: Train into a folder that holds something.
        report: Told of every step.

    Raises:
        DataError: ``data`` is unusable, or ``out`` holds something and ``force`` is not set.
        MaskError: Masks are missing.
    """
    options, settings = options or TrainOptions(), replace(config or INERT, resume="exact")
    folder, root = Path(out), Path(data).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise DataError(
            f"`out` must be a new or empty folder; {str(out)!r} is not; choose another, or use --force or --resume"
        )
    host_options = options.host_options(root, folder, force=force)
    model = create_model(host_options)
    dataset = create_dataset(host_options)
    model.setup(host_options)
    with attach(model, dataset, settings, plugins=plugins) as session:
        folder.mkdir(parents=True, exist_ok=True)
        described = {"data": str(root), "options": asdict(options), "config": settings.to_mapping()}
        _write_json(folder / "run.json", {"format": 1, **described})
        (folder / "history.jsonl").unlink(missing_ok=True)
        _loop(model, dataset, session, options, folder, report)


def resume(out: str | Path, *, plugins: Iterable[Any] = (), report: Report | None = None) -> None:
    """Continue a run from its last saved epoch; the result is the uninterrupted run's.

    Raises:
        CheckpointError: There is no saved epoch, or a file of it is missing or damaged.
    """
    folder = Path(out)
    root, options, settings = read_run(folder)
    epoch = saved_epoch(folder)
    host_options = options.host_options(root, folder, continue_train=True, epoch=str(epoch), epoch_count=epoch + 1)
    if epoch >= options.epochs + options.decay_epochs:
        return
    model = create_model(host_options)
    dataset = create_dataset(host_options)
    model.setup(host_options)
    _truncate_history(folder / "history.jsonl", epoch)
    with attach(model, dataset, settings, plugins=plugins) as session:
        _loop(model, dataset, session, options, folder, report)


def read_run(folder: Path) -> tuple[Path, TrainOptions, Config]:
    """Data folder, host options and session configuration of a run.

    Raises:
        DataError: ``folder`` is no run.
    """
    path = folder / "run.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(TrainOptions)}
        options = TrainOptions(**{key: value for key, value in described["options"].items() if key in known})
        return Path(described["data"]), options, Config.from_mapping(described["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"`run` must be a folder that `roi-progressive train` wrote; {str(folder)!r} has no readable run.json "
            f"({type(error).__name__}); check the path"
        ) from error


def history(run: str | Path) -> list[dict[str, Any]]:
    """The epochs of a run: number, stage, and mean losses by name."""
    path = Path(run) / "history.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _loop(
    model: CycleGANModel, dataset: Any, session: Session, options: TrainOptions, folder: Path, report: Report | None
) -> None:
    last = options.epochs + options.decay_epochs
    steps = len(dataset.dataloader)
    for epoch in range(model.opt.epoch_count, last + 1):
        stage = session.start_epoch(epoch)
        sums: dict[str, float] = {}
        for step, batch in enumerate(dataset, start=1):
            model.set_input(batch)
            model.optimize_parameters()
            for name, loss in {**model.get_current_losses(), **session.losses()}.items():
                sums[name] = sums.get(name, 0.0) + loss / steps
            if report is not None:
                report((epoch - 1) * steps + step, last * steps, str(stage))
        model.update_learning_rate()
        _append_json(folder / "history.jsonl", {"epoch": epoch, "stage": stage.number, "losses": sums})
        if epoch % options.save_every_epochs == 0 or epoch == last:
            _save(model, folder, epoch)


def _save(model: CycleGANModel, folder: Path, epoch: int) -> None:
    """Save an epoch, then point at it, then drop the one before: a stop in between loses nothing."""
    before = saved_epoch(folder, required=False)
    model.save_networks(epoch)
    _write_json(folder / "networks" / "latest.json", {"epoch": epoch})
    _draw_sample(model, folder / "samples" / f"epoch_{epoch:04d}.png")
    if before is not None and before != epoch:
        for path in (folder / "networks").glob(f"{before}_*.pth"):
            path.unlink()


def saved_epoch(folder: Path, required: bool = True) -> Any:
    """The epoch whose networks a run holds.

    Raises:
        CheckpointError: There is none, and one is ``required``.
    """
    try:
        return int(json.loads((folder / "networks" / "latest.json").read_text(encoding="utf-8"))["epoch"])
    except (OSError, ValueError, KeyError) as error:
        if not required:
            return None
        raise CheckpointError(
            f"`run` must hold a saved epoch; {str(folder)!r} has none yet; train it from the beginning with --force"
        ) from error


def _draw_sample(model: CycleGANModel, path: Path) -> None:
    """One row an image of the last batch's first sample: source, generated, reconstructed, in both directions."""
    names = ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")
    strip = torch.cat([getattr(model, name)[0].detach() for name in names], dim=-1)
    write_image(path, strip)


def write_image(path: Path, image: Tensor) -> None:
    """Write the first channel of an image ``[C, H, W]`` in [-1, 1] as 8-bit grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = ((image[0].clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    Image.fromarray(grey).save(path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)


def _append_json(path: Path, content: Mapping[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def _truncate_history(path: Path, epoch: int) -> None:
    """Drop the epochs that will be trained again."""
    kept = [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if json.loads(line)["epoch"] <= epoch
    ]
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text("".join(kept), encoding="utf-8")
    os.replace(aside, path)
