"""The networks of a saved epoch, opened to make images: the averages where a run keeps them, and its heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..host import CycleGANModel, create_model
from ..training.session import Session, attach
from .average import use_averages
from .folder import Run
from .train import INERT


@contextmanager
def saved_networks(
    run: Run, epoch: int, *, split: str = "test", device: str = "auto"
) -> Iterator[tuple[CycleGANModel, Session]]:
    """A run's model, ready to translate, and a session with its uncertainty heads.

    Args:
        run: The run.
        epoch: Whose networks.
        split: The images that the model's own data set would read.
        device: Where to compute, whatever the run was trained on.

    Raises:
        ConfigError: This machine has no such device.
        CheckpointError: A network is missing, damaged or not of finite numbers.
    """
    host_options = run.host_options().for_test(phase=split, epoch=str(epoch), device=device)
    model = create_model(host_options)
    model.setup(host_options)
    if run.options.average_decay > 0:
        use_averages(model, run.networks, epoch)
    model.eval()
    with_sigma = run.config.ggd is not None
    settings = replace(run.config, resume="networks") if with_sigma else replace(INERT, resume="fresh")
    with attach(model, None, settings) as session:
        yield model, session
