"""The generators of a run: what is known of them without its data, and loaded to translate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import Config
from ..data.preparation import Preparation
from ..host import CycleGANModel, create_model
from ..host.ranks import unwrapped
from ..saving.records import entry, of_kind, read_json
from ..training.session import Session, attach
from .average import use_averages
from .folder import PREPARATION_FILE, networks_of, options_and_config, read_description, unusable_description
from .kept_epochs import chosen_epoch
from .options import TrainOptions
from .train import INERT


@dataclass(frozen=True)
class TrainedNetworks:
    """The networks of a run, without its data: all that translating a new scan takes.

    Args:
        folder: Where they lie.
        options: How they are built, and whether a moving average of them was kept.
        config: How they were guided, and whether they have uncertainty heads.
        epoch: The epoch whose networks are used.
        preparation: How the slices were made that they were trained on; ``None`` where nothing says so.
        data: Where the data set lay that they were trained on; ``None`` of networks that left their run.
    """

    folder: Path
    options: TrainOptions
    config: Config
    epoch: int
    preparation: Preparation | None
    data: Path | None = None

    @classmethod
    def open(cls, place: str | Path, *, epoch: int | str | None = None) -> TrainedNetworks:
        """Read what a run's folder, or the folder of its networks alone, says of them.

        Args:
            place: Either.
            epoch: Whose networks to use, as for :func:`chosen_epoch`.

        Raises:
            ConfigError: ``epoch`` names none.
            DataError: The folder is neither, or a record in it is damaged.
            CheckpointError: No epoch is saved yet, or the file that names it is damaged.
        """
        given = Path(place)
        networks = networks_of(given)
        alone = networks == given
        path = given / PREPARATION_FILE if alone else given / "run.json"
        if not path.is_file():
            read_description(given)  # which says what is missing
        try:
            described = read_json(path)
            options, config = options_and_config(described)
            made = of_kind(described.get("preparation"), "`preparation`", dict, type(None))
            preparation = None if made is None else Preparation.from_record(made)
            data = None if alone else Path(entry(described, "data", str))
        except (OSError, ValueError) as error:
            raise unusable_description(path, error) from error
        return cls(networks, options, config, chosen_epoch(networks, epoch), preparation, data)


class Generators:
    """Both generators of a run, ready to translate; made by :func:`loaded_generators`.

    Args:
        model: The host.
        session: What predicts sigma, where the run has uncertainty heads.
    """

    def __init__(self, model: CycleGANModel, session: Session) -> None:
        self._model = model
        self._session = session

    @property
    def device(self) -> torch.device:
        """Where they compute."""
        return self._model.device

    @property
    def have_sigma(self) -> bool:
        """Whether sigma is predicted beside every image."""
        return self._session.config.ggd is not None

    def network(self, direction: str) -> nn.Module:
        """The generator of a direction."""
        return unwrapped(self._model.netG_A if direction == "A2B" else self._model.netG_B)

    def standalone(self, direction: str, example: Tensor) -> nn.Module:
        """A copy of a generator with its uncertainty head as one module; see ``Session.standalone``."""
        return self._session.standalone(example, direction)

    def translate(self, direction: str, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """Generated images and, where the run has uncertainty heads, sigma, each ``[N, C, H, W]``.

        Args:
            direction: ``A2B`` or ``B2A``.
            source: ``[N, C, H, W]`` in [-1, 1], on ``device``.
        """
        if self.have_sigma:
            result = self._session.uncertainty(source, direction)
            return result.image, result.sigma
        generator = self._model.netG_A if direction == "A2B" else self._model.netG_B
        with torch.no_grad():
            return generator(source), None


@contextmanager
def loaded_generators(
    networks: Path, options: TrainOptions, config: Config, epoch: int, device: str, phase: str = "test"
) -> Iterator[Generators]:
    """Load the generators of an epoch, their averages where these make the images.

    Args:
        networks: The folder of the networks.
        options: How they are built.
        config: How they were guided.
        epoch: Whose they are.
        device: Where to compute, whatever they were trained on: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        phase: The host's name of the split.

    Raises:
        ConfigError: This machine has no such device.
        CheckpointError: A network is missing, damaged or not of finite numbers.
    """
    trained = options.host_options(networks, networks.parent)
    host_options = replace(trained, name=networks.name).for_test(phase=phase, epoch=str(epoch), device=device)
    model = create_model(host_options)
    model.setup(host_options)
    if options.average_decay > 0:
        use_averages(model, networks, epoch)
    model.eval()
    settings = replace(config, resume="networks") if config.ggd is not None else replace(INERT, resume="fresh")
    with attach(model, None, settings) as session:
        yield Generators(model, session)
