"""What of a run can be handed on: its generators as programs without this package, and a card that says what they are.

A program is a generator with its uncertainty head, traced; it holds weights and nothing else. Of torch's own formats
TorchScript is the one that every torch from 2.1 on reads, whichever wrote it, and that C++ reads too; archives of
``torch.export`` are bound to the version that wrote them.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import setting_checks as check
from ..errors import ConfigError, DataError, one_line
from ..runtime.rng import RandomState
from ..saving.locks import only_writer
from ..saving.names import DIRECTIONS
from ..saving.whole_files import require_new_or_empty, write_text, writing
from ..saving.written import new_folder, write_names
from .calibrate import read_calibration
from .folder import Run
from .generators import loaded_generators
from .kept_epochs import chosen_epoch
from .model_card import CARD, Program, model_card

FORMATS = ("torch", "onnx")
INPUT, OUTPUTS = "source", ("image", "sigma")
OPSET = 17
_ENDING = {"torch": "pt", "onnx": "onnx"}
_TRACED_PX = 64
_MOST_DIFFERENCE = 1e-3
"""Of a program from the run's networks, in an image's range of 2: an eighth of a grey level."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: Where.
        files: The programs by direction, and the card last.
        notes: What the user should know, one line each.
    """

    folder: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def export(
    run: str | Path | Run,
    out: str | Path,
    *,
    format: str = "torch",
    directions: Sequence[str] = DIRECTIONS,
    sigma: bool = False,
    epoch: int | str | None = None,
    data: str | Path | None = None,
    force: bool = False,
) -> Exported:
    """Write a run's generators as programs that need nothing of this package, and ``card.md`` beside them.

    A program takes images ``[N, C, H, W]`` in [-1, 1] of any number and, from a least side on, of any size, and returns
    the generated images likewise, in [-1, 1]; with ``sigma`` their predicted standard deviation too, in the same units.
    Before it is kept it is tried against the run's own networks. It is made of the averaged generators where the run
    keeps them, as its images are. Of a run with neighbours the first channel of what it takes is the slice, then come
    those below and above it from the feet to the head, and it returns the slice alone, ``[N, 1, H, W]``.

    Args:
        run: A run, or its folder.
        out: The folder to make: ``A2B.pt`` or ``A2B.onnx``, ``B2A...``, and ``card.md``.
        format: ``torch``, a TorchScript program (``torch.jit.load``, from torch 2.1 on), or ``onnx``.
        directions: Which.
        sigma: Let it return sigma too, calibrated where the run is (:func:`calibrate`); it must have uncertainty heads.
        epoch: Whose networks; those of an opened run, or the last saved ones, by default.
        data: Where the data set of a run lies now that is given by its folder; where it lay, by default.
        force: Replace an earlier export in ``out``.

    Raises:
        ConfigError: ``format`` or a direction is none.
        DataError: The run is missing or has no heads, ``out`` holds files and ``force`` is not set, a package that
            writes ONNX is missing, or a program would not give what the run's networks give.
        CheckpointError: A network is missing, damaged or not of finite numbers.
    """
    check.choice("", "format", format, FORMATS)
    for direction in directions:
        check.choice("", "direction", direction, DIRECTIONS)
    if not directions or len(set(directions)) != len(directions):
        raise ConfigError(f"`direction` must name each direction once; got {list(directions)!r}")
    opened = run if isinstance(run, Run) else Run.open(run, epoch=epoch, data=data)
    chosen = opened.epoch if epoch is None else chosen_epoch(opened.networks, epoch)
    if sigma and opened.config.ggd is None:
        raise DataError(
            f"`sigma` must be asked of a run with [ggd] in its config; {str(opened.folder)!r} has no heads; leave it "
            f"out"
        )
    if format == "onnx":
        _required("onnx")
    require_new_or_empty(Path(out), force=force)
    notes: list[str] = []
    with only_writer(Path(out)), new_folder(out, force=force, keep=[opened.folder / "run.json"]) as place:
        programs = []
        calibration = read_calibration(opened.networks, opened.options, opened.config, chosen) if sigma else None
        loaded = loaded_generators(opened.networks, opened.options, opened.config, chosen, device="cpu")
        with _seeded(), loaded as generators:
            for direction in directions:
                network = generators.network(direction)
                rules = _rules_of(network, opened)
                example = torch.rand(1, rules.channels, rules.traced_px, rules.traced_px) * 2 - 1
                module = generators.standalone(direction, example) if sigma else copy.deepcopy(network).eval()
                if opened.neighbours:
                    module = _SliceAlone(module, sigma)
                if calibration is not None:
                    module = _Calibrated(module, calibration.directions[direction].image.factor)
                path = place / f"{direction}.{_ENDING[format]}"
                difference = _write(path, module.requires_grad_(False), rules, sigma=sigma, notes=notes)
                programs.append(Program(direction, path.name, rules.least_px, rules.multiple_px, sigma, difference))
        write_text(place / CARD, model_card(opened, chosen, programs, calibration))
        write_names(place)
    folder = Path(out)
    return Exported(folder, tuple(folder / name for name in (*(p.file for p in programs), CARD)), tuple(notes))


@dataclass(frozen=True)
class _Rules:
    """What sizes of images a program takes: sides of at least ``least_px``, multiples of ``multiple_px``."""

    channels: int
    least_px: int
    multiple_px: int

    @property
    def traced_px(self) -> int:
        """The size it is traced with."""
        return max(_TRACED_PX, self.least_px)

    @property
    def tried(self) -> tuple[tuple[int, int, int], ...]:
        """Numbers, heights and widths of images that it is tried with: the least ones, odd ones, several at once."""
        odd = (self.traced_px + 3 * self.multiple_px, self.traced_px + 9 * self.multiple_px)
        return (1, self.least_px, self.least_px), (2, *odd)


def _rules_of(network: nn.Module, run: Run) -> _Rules:
    channels = int(network.in_channels)  # type: ignore[arg-type]
    if run.options.generator == "unet":
        # At one pixel the generator leaves its instance norms out; a program has them, or has them not.
        return _Rules(channels, least_px=2 ** (run.options.depth + 1), multiple_px=1)
    return _Rules(channels, least_px=8, multiple_px=4)


def _write(path: Path, module: nn.Module, rules: _Rules, *, sigma: bool, notes: list[str]) -> float | None:
    """Write one program and try it: the largest difference from the module; ``None`` where it could not be tried."""
    outputs = OUTPUTS if sigma else OUTPUTS[:1]
    checked = _SizesChecked(module, rules) if path.suffix == ".pt" else module
    example = torch.rand(1, rules.channels, rules.traced_px, rules.traced_px) * 2 - 1
    with torch.no_grad(), _quiet():
        traced = torch.jit.trace(checked, example, check_trace=False)
        content = io.BytesIO()
        if path.suffix == ".pt":
            torch.jit.save(traced, content)
        else:
            _to_onnx(traced, example, content, outputs)
    with writing(path):
        path.write_bytes(_without_paths(content.getvalue()) if path.suffix == ".pt" else content.getvalue())
    run_program = _torch_program(path) if path.suffix == ".pt" else _onnx_program(path, notes)
    if run_program is None:
        return None
    difference = 0.0
    for number, height, width in rules.tried:
        source = torch.rand(number, rules.channels, height, width) * 2 - 1
        with torch.no_grad():
            expected = module(source)
        got = run_program(source)
        for of_run, of_program in zip(expected if sigma else [expected], got, strict=True):
            if of_program.shape != of_run.shape:
                raise _wrong_program(path, f"{list(of_program.shape)} in place of {list(of_run.shape)}")
            difference = max(difference, float((of_program - of_run).abs().max()))
    if not difference <= _MOST_DIFFERENCE:
        raise _wrong_program(path, f"values that differ by {difference:g}")
    return difference


def _wrong_program(path: Path, what: str) -> DataError:
    return DataError(
        f"`format` must be one that this torch, {torch.__version__}, can write; {path.name} gives {what}; take the "
        f"other format, or another torch"
    )


class _SliceAlone(nn.Module):
    """Of what a network makes of a slice and its neighbours, the slice: the first channel."""

    def __init__(self, module: nn.Module, sigma: bool) -> None:
        super().__init__()
        self.module, self._sigma = module, sigma

    def forward(self, source: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self._sigma:
            made: Tensor = self.module(source)
            return made[:, :1]
        image, sigma = self.module(source)
        return image[:, :1], sigma[:, :1]


class _Calibrated(nn.Module):
    """Images as they are, and sigma times what the run's calibration found of whole images."""

    def __init__(self, module: nn.Module, factor: float) -> None:
        super().__init__()
        self.module, self._factor = module, factor

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        image, sigma = self.module(source)
        return image, self._factor * sigma


class _SizesChecked(nn.Module):
    """A module that refuses what a program of it would get wrong without a word."""

    def __init__(self, module: nn.Module, rules: _Rules) -> None:
        super().__init__()
        self.module = module
        self._rules = (rules.channels, rules.least_px, rules.multiple_px)
        with _quiet():
            self._require = torch.jit.script(_require_size)  # in a traced program a scripted function keeps its ifs

    def forward(self, source: Tensor) -> Any:
        """What the module returns."""
        return self.module(self._require(source, *self._rules))


def _require_size(source: Tensor, channels: int, least_px: int, multiple_px: int) -> Tensor:
    if source.dim() != 4 or source.size(1) != channels:
        raise RuntimeError(f"`source` must be [N, {channels}, H, W]; got {source.size()}")
    height_px, width_px = source.size(2), source.size(3)
    if min(height_px, width_px) < least_px or height_px % multiple_px != 0 or width_px % multiple_px != 0:
        raise RuntimeError(
            f"`source` must have sides of at least {least_px} px, multiples of {multiple_px}; got {source.size()}"
        )
    return source


def _without_paths(program: bytes) -> bytes:
    """A TorchScript program without what helps to debug it: that names the folders of this machine, and doubles it."""
    kept = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as archive, zipfile.ZipFile(kept, "w") as smaller:
        for part in archive.infolist():
            if not part.filename.endswith(".debug_pkl"):
                smaller.writestr(part, archive.read(part), compress_type=part.compress_type)
    return kept.getvalue()


def _to_onnx(traced: Any, example: Tensor, content: io.BytesIO, outputs: Sequence[str]) -> None:
    axes = {0: "images", 2: "height", 3: "width"}
    # The exporter that every torch from 2.1 on has; the newer one binds sizes to what its example had.
    chosen: Any = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    export_to: Any = torch.onnx.export  # whose signature differs between versions
    try:
        export_to(
            traced,
            (example,),
            content,
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_axes=dict.fromkeys((INPUT, *outputs), axes),
            opset_version=OPSET,
            **chosen,
        )
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"`format` must be one that this torch, {torch.__version__}, can write; onnx failed: {one_line(error)}; "
            f'run: pip install "roi-progressive[export]", or take --format torch'
        ) from error


def _torch_program(path: Path) -> Any:
    with _quiet():
        program = torch.jit.load(io.BytesIO(path.read_bytes()))

    def run(source: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            got = program(source)
        return [got] if isinstance(got, Tensor) else list(got)

    return run


def _onnx_program(path: Path, notes: list[str]) -> Any:
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        notes.append(f'{path.name} was not tried: install onnxruntime (pip install "roi-progressive[export]") to do so')
        return None
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(source: Tensor) -> Sequence[Tensor]:
        return [torch.from_numpy(np.asarray(got)) for got in session.run(None, {INPUT: source.numpy()})]

    return run


def _required(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f'`format` onnx needs `{package}`, which is not installed; run: pip install "roi-progressive[export]", or '
            f"take --format torch"
        ) from error


@contextmanager
def _seeded() -> Iterator[None]:
    """Examples that are the same every time, and random streams that go on as if there had been none."""
    before = RandomState.now()
    torch.manual_seed(0)
    try:
        yield
    finally:
        before.restore()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's advice on tracing: what it warns of is tried on other sizes than it was traced with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
