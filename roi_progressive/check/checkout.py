"""A checkout of somebody's training code, imported for a while and put away again.

Such code calls its modules ``models``, ``data`` and ``options``; two checkouts in one process must not mix.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import HostNotSupportedError, one_line
from ..saving.locks import resolved

ENTRY_MODULES = ("options.train_options", "models", "data")
"""What every code base of the junyanz dialect is driven by."""


class HostCheckout:
    """Training code in the junyanz dialect, in a folder that is no package.

    Args:
        folder: Of the checkout, as it was cloned.

    Raises:
        HostNotSupportedError: The folder holds no such code.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = resolved(folder, "host")
        absent = [name for name in ENTRY_MODULES if not self._has(name)]
        if absent:
            what = f"lacks {', '.join(absent)}" if self.folder.is_dir() else "is no folder"
            raise HostNotSupportedError(
                f"`host` must be a checkout of training code in the junyanz dialect; {str(folder)!r} {what}; "
                f"give the folder of train.py"
            )

    def _has(self, module: str) -> bool:
        path = self.folder.joinpath(*module.split("."))
        return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()

    @property
    def generation(self) -> str:
        """``CUT`` (set up inside its loop), ``DDP`` (a device in the options, 2025), ``older`` (before 2019) or
        ``classic``."""
        if self.sets_up_in_its_loop:
            return "CUT"
        if "opt.device" in self._text("models", "base_model.py"):
            return "DDP"
        return "older" if "def create_dataset" not in self._text("data", "__init__.py") else "classic"

    @property
    def sets_up_in_its_loop(self) -> bool:
        """Whether networks are still made, and ``setup`` runs, at the first batch."""
        return "data_dependent_initialize(" in self._text("train.py") or self._has("models.cut_model")

    def _text(self, *path: str) -> str:
        file = self.folder.joinpath(*path)
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    @contextmanager
    def imported(self) -> Iterator[HostCheckout]:
        """Have the checkout's modules importable inside the block; afterwards they are gone, and ours are back."""
        tops = {path.stem for path in self.folder.iterdir() if path.suffix == ".py" or path.is_dir()}
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in tops}
        path = list(sys.path)
        sys.path.insert(0, str(self.folder))
        try:
            yield self
        finally:
            sys.path[:] = path  # a host may have put more there, itself once more among it
            for name in [name for name in sys.modules if name.split(".")[0] in tops]:
                del sys.modules[name]
            sys.modules.update(hidden)

    def options(self, arguments: Sequence[str], device: str | torch.device | None = None) -> Any:
        """The host's own training options, parsed as its train.py would; call inside ``imported``.

        Args:
            arguments: As typed after ``train.py``; without ``--gpu_ids`` the machine decides.
            device: Where to train; a GPU where there is one.
        """
        chosen = torch.device(device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        given = list(arguments)
        if self.generation != "DDP" and "--gpu_ids" not in given:
            given += ["--gpu_ids", str(chosen.index or 0) if chosen.type == "cuda" else "-1"]
        before, sys.argv = sys.argv, [str(self.folder / "train.py"), *given]
        try:
            opt = importlib.import_module("options.train_options").TrainOptions().parse()
        finally:
            sys.argv = before
        if not hasattr(opt, "gpu_ids"):
            opt.device = chosen
        return opt

    def data_and_model(self, opt: Any) -> tuple[Any, Any]:
        """The host's loader and model, ready to train but for a set-up inside its loop; call inside ``imported``."""
        os.makedirs(Path(opt.checkpoints_dir) / opt.name, exist_ok=True)
        data = importlib.import_module("data")
        loader = data.create_dataset(opt) if hasattr(data, "create_dataset") else data.CreateDataLoader(opt).load_data()
        model = importlib.import_module("models").create_model(opt)
        if hasattr(model, "setup") and not self.sets_up_in_its_loop:
            model.setup(opt)
        return loader, model

    def set_up(self, model: Any, batch: Any) -> None:
        """What a host that is set up inside its loop does at the first batch; a second call does nothing."""
        if self.sets_up_in_its_loop and not hasattr(model, "schedulers"):
            if not _n_batches(model):
                model.set_input(batch)
            model.data_dependent_initialize(*[batch] * _n_batches(model))
            model.setup(model.opt)
            model.parallelize()

    def step(self, model: Any, batch: Any) -> None:
        """One training step, as the host's loop takes it; a host that trains on two batches at once gets this one
        twice."""
        self.set_up(model, batch)
        model.set_input(*[batch] * max(1, _n_batches(model)))
        model.optimize_parameters()


def _n_batches(model: Any) -> int:
    """How many batches the host's own loop hands to its set-up."""
    set_up = getattr(type(model), "data_dependent_initialize", None)  # the class's own, whatever a session put over it
    return 1 if set_up is None else len(inspect.signature(set_up).parameters) - 1


@contextmanager
def importing(folder: Path) -> Iterator[None]:
    """Around all that imports a checkout's code.

    Raises:
        HostNotSupportedError: It cannot be imported here.
    """
    try:
        yield
    except (ImportError, SyntaxError) as error:
        remedy = "install what it requires" if isinstance(error, ImportError) else "bring its code up to this Python"
        raise HostNotSupportedError(
            f"`host` must be importable here; {str(folder)!r} is not: {one_line(error)}; {remedy}"
        ) from error
