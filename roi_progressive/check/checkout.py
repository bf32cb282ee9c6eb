"""A checkout of somebody's training code, imported for a while and put away again.

Such code calls its modules ``models``, ``data`` and ``options``; two checkouts in one process must not mix.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import HostNotSupportedError
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
        """``DDP`` (a device in the options, 2025), ``CUT`` (set-up inside the loop) or ``classic``."""
        if self._has("models.cut_model"):
            return "CUT"
        model = (self.folder / "models" / "base_model.py").read_text(encoding="utf-8")
        return "DDP" if "opt.device" in model else "classic"

    @contextmanager
    def imported(self) -> Iterator[HostCheckout]:
        """Have the checkout's modules importable inside the block; afterwards they are gone, and ours are back."""
        tops = {path.stem for path in self.folder.iterdir() if path.suffix == ".py" or path.is_dir()}
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in tops}
        sys.path.insert(0, str(self.folder))
        try:
            yield self
        finally:
            sys.path.remove(str(self.folder))
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
        loader = importlib.import_module("data").create_dataset(opt)
        model = importlib.import_module("models").create_model(opt)
        if not self.sets_up_in_its_loop:
            model.setup(opt)
        return loader, model

    @property
    def sets_up_in_its_loop(self) -> bool:
        """Whether ``setup`` runs at the first batch."""
        return self.generation == "CUT"
