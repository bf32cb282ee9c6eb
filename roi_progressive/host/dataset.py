"""The bundled trainer's data: two folders of images that need not belong together, as unaligned pairs."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as PillowImage
from PIL.Image import Resampling, Transpose
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler, default_collate

from ..errors import DataError, RoiProgressiveError, UnreadableError, first_line, parsed
from ..runtime.devices import choose_device
from ..saving.names import DOMAINS
from ..saving.neighbour_slices import read_neighbours
from ..saving.signals import signals_later
from ..saving.stray_files import is_stray
from .array_images import FORMAT, checked
from .augmentation import augmentation
from .options import HostOptions
from .ranks import sampler_for

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".npy"})
_MODES = {1: "L", 3: "RGB"}


class ImageTransform:
    """Resize, crop, mirror and augment an image as the options say, and give it as a tensor.

    Chance comes from torch's global stream: two draws for a crop (row, column), one for a flip, then those of the
    augmentation.

    Args:
        resize_px: Side to which the image is scaled, bicubic, both sides; ``None`` leaves its size.
        crop_px: Side of a window cut at random; ``None`` cuts nothing.
        flip: Mirror every second image, on average, left to right.
        augment: What is done to the tensor ``[C, H, W]`` last, of the same shape and range; ``None`` for nothing.
    """

    def __init__(
        self,
        resize_px: int | None = None,
        crop_px: int | None = None,
        flip: bool = False,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.resize_px = resize_px
        self.crop_px = crop_px
        self.flip = flip
        self.augment = augment

    def __call__(self, image: PillowImage, *neighbours: PillowImage) -> Tensor:
        """Give ``image``, 8 bits a channel or floats in [-1, 1], as a float32 tensor ``[C, H, W]`` in [-1, 1].

        Args:
            image: What is given.
            *neighbours: Images of the same size, to which the same is done; their channels come after its own.

        Raises:
            DataError: The image is smaller than the window to be cut from it.
        """
        images = [image, *neighbours]
        if self.resize_px is not None:
            images = [each.resize((self.resize_px, self.resize_px), Resampling.BICUBIC) for each in images]
        if self.crop_px is not None:
            images = self._crop(images, self.crop_px)
        if self.flip and torch.rand(1).item() < 0.5:
            images = [each.transpose(Transpose.FLIP_LEFT_RIGHT) for each in images]
        tensor = torch.cat([self._as_tensor(each) for each in images])
        return tensor if self.augment is None else self.augment(tensor)

    @staticmethod
    def _as_tensor(image: PillowImage) -> Tensor:
        pixels = np.array(image, dtype=np.float32)
        planes = pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
        tensor = torch.from_numpy(planes)
        # A bicubic resize of floats may overshoot; Pillow clips 8 bits itself.
        return tensor.clamp_(-1.0, 1.0) if image.mode == "F" else tensor.div_(127.5).sub_(1.0)

    @staticmethod
    def _crop(images: list[PillowImage], side_px: int) -> list[PillowImage]:
        width_px, height_px = images[0].size
        if min(width_px, height_px) < side_px:
            raise DataError(
                f"`crop_size` must be at most the image's sides; got {side_px} for an image of "
                f"{width_px} x {height_px} px; lower it or resize first"
            )
        top = int(torch.randint(0, height_px - side_px + 1, (1,)).item())
        left = int(torch.randint(0, width_px - side_px + 1, (1,)).item())
        return [each.crop((left, top, left + side_px, top + side_px)) for each in images]


class UnalignedDataset(Dataset[dict[str, Any]]):
    """Images of ``<dataroot>/<phase>A`` in order, each with one of ``<phase>B`` taken at random.

    With ``serial_batches`` B is taken at the index of A. The shorter domain starts anew when it is used up.

    With ``neighbours`` each image has those of its slice as further channels (see ``read_neighbours``).

    Args:
        opt: The options; ``direction`` swaps the domains later, in the model, not here.

    Raises:
        DataError: A folder is missing or holds no image.
    """

    def __init__(self, opt: HostOptions) -> None:
        self.opt = opt
        self.dir_A, self.dir_B = (str(Path(opt.dataroot) / f"{opt.phase}{domain}") for domain in DOMAINS)
        self.A_paths = find_images(self.dir_A)[: opt.max_dataset_size]
        self.B_paths = find_images(self.dir_B)[: opt.max_dataset_size]
        self.A_size, self.B_size = len(self.A_paths), len(self.B_paths)
        transform = ImageTransform(
            resize_px=opt.load_size if "resize" in opt.preprocess else None,
            crop_px=opt.crop_size if "crop" in opt.preprocess else None,
            flip=opt.isTrain and not opt.no_flip,
            augment=augmentation(opt.augment) if opt.isTrain else None,
        )
        self.transform_A: Callable[..., Tensor] = transform
        self.transform_B: Callable[..., Tensor] = transform

    def __len__(self) -> int:
        """Size of the larger domain."""
        return max(self.A_size, self.B_size)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """One image of each domain.

        Args:
            index: The image of A. A pair is the image and a seed: then the sample depends on nothing that was drawn
                before, so that a worker that lives on draws what a new one would.

        Returns:
            ``A`` and ``B``, float32 tensors ``[C, H, W]`` in [-1, 1], and their files, ``A_paths`` and ``B_paths``.

        Raises:
            DataError: A file cannot be read as an image of 8 bits a channel, or as an array of floats in [-1, 1].
        """
        if isinstance(index, tuple):
            index, seed = index
            random.seed(seed)
            torch.manual_seed(seed)
        A_path = self.A_paths[index % self.A_size]
        index_B = index % self.B_size if self.opt.serial_batches else random.randint(0, self.B_size - 1)
        B_path = self.B_paths[index_B]
        swapped = self.opt.direction == "BtoA"
        channels_A, channels_B = self.opt.input_nc, self.opt.output_nc
        A = self.transform_A(*self._images(A_path, channels_B if swapped else channels_A))
        B = self.transform_B(*self._images(B_path, channels_A if swapped else channels_B))
        return {"A": A, "B": B, "A_paths": A_path, "B_paths": B_path}

    def _images(self, path: str, channels: int) -> list[PillowImage]:
        """A slice, then its neighbours in the order of their channels."""
        image = _read(path, channels)
        if self.opt.neighbours == 0:
            return [image]
        around = read_neighbours(path, self.opt.neighbours, (image.height, image.width))
        return [image, *map(Image.fromarray, around)]


class SeededSampler(Sampler[tuple[int, int]]):
    """The indices of another sampler, each with a seed drawn from torch's stream.

    Worker processes that live for the whole run would otherwise draw on from where they stood, and a run that was
    stopped and goes on, whose workers are new, would see other samples than one that was not.

    Args:
        sampler: Gives the indices.
    """

    def __init__(self, sampler: Sampler[int]) -> None:
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]  # every sampler of a data set with a length has one

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first = int(torch.randint(0, 2**62, (1,)).item())
        return ((index, first + place) for place, index in enumerate(self._sampler))


class ImageLoader:
    """What a training loop iterates: batches of an :class:`UnalignedDataset`.

    Attributes:
        dataset: The data set.
        dataloader: The torch loader; one epoch covers the larger domain once. Of several processes that train together
            each has its own part of it, all as many batches.
    """

    def __init__(self, opt: HostOptions) -> None:
        self.opt = opt
        self.dataset = UnalignedDataset(opt)
        self._parts = sampler_for(self.dataset, opt)
        self._epoch = opt.epoch_count
        sampler: Sampler[Any]
        if self._parts is not None:
            sampler = self._parts
        else:
            sampler = SequentialSampler(self.dataset) if opt.serial_batches else RandomSampler(self.dataset)
        self.dataloader: DataLoader[dict[str, Any]] = DataLoader(
            self.dataset,
            batch_size=opt.batch_size,
            sampler=SeededSampler(sampler) if opt.num_threads else sampler,
            num_workers=opt.num_threads,
            persistent_workers=opt.num_threads > 0,
            pin_memory=pins_memory(opt),
            # New workers take a seed from it, and those that live on none: from torch's own stream it would be missed.
            generator=torch.Generator() if opt.num_threads else None,
            collate_fn=_collate,
            worker_init_fn=_deaf_to_interrupts,
        )

    def __len__(self) -> int:
        """Images (not batches) in an epoch."""
        return len(self.dataset)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches of one epoch; the last may be smaller."""
        if self._parts is not None:
            self._parts.set_epoch(self._epoch)
            self._epoch += 1
        with signals_later():  # of a loader that is half made, torch's own finalizer prints an AttributeError
            return iter(self.dataloader)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Around the use of a loader: what happens to its worker processes is one line.

    Raises:
        RoiProgressiveError: An error of ours in a worker, without the traceback that torch wraps it in.
        DataError: A worker was killed, or the memory that they share is full.
    """
    try:
        yield
    except RoiProgressiveError as error:
        own = _line_of_worker(error)
        if own is None:
            raise
        raise type(error)(own) from None
    except (OSError, RuntimeError) as error:
        if not any(words in str(error) for words in _OF_WORKERS):
            raise
        raise DataError(
            f"`workers` must fit this machine; a process that loads images was killed or had no memory to share "
            f"({first_line(error).partition(':')[0]}); use --workers 0, or give the machine more of /dev/shm"
        ) from error


_OF_WORKERS = ("DataLoader worker", "shared memory", "torch_shm", "shm_open")


def _line_of_worker(error: RoiProgressiveError) -> str | None:
    """The error's own line out of the traceback of a worker; ``None`` of any other error."""
    text = str(error)
    if not text.startswith("Caught "):
        return None
    begin = f"{type(error).__module__}.{type(error).__qualname__}: "
    lines = [line.removeprefix(begin) for line in text.splitlines() if line.startswith(begin)]
    return lines[-1] if lines else None


def _deaf_to_interrupts(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def create_dataset(opt: HostOptions) -> ImageLoader:
    """The loader that ``opt`` describes.

    Raises:
        DataError: An image folder is missing or holds no image.
    """
    return ImageLoader(opt)


def find_images(folder: str) -> list[str]:
    """Paths of all images under ``folder``, sorted; what other programs have left there is left out.

    Raises:
        DataError: The folder is missing or holds no image.
    """
    if not Path(folder).is_dir():
        raise DataError(f"`dataroot` must hold the folder {folder!r}; there is none; check `dataroot` and `phase`")
    files = (path for path in Path(folder).rglob("*") if path.suffix.lower() in _SUFFIXES)
    paths = sorted(str(path) for path in files if not is_stray(path) and path.is_file())
    if not paths:
        raise DataError(
            f"`dataroot` must hold images in {folder!r}; none found; put {', '.join(sorted(_SUFFIXES))} there"
        )
    return paths


def _read(path: str, channels: int) -> PillowImage:
    try:
        image = parsed(Image.open, path)
        if image.format == FORMAT:
            return checked(image, path, channels)
        # Pillow would clip these to 255 and leave a white image, without a word.
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"`dataroot` must hold images of 8 bits a channel; {path!r} has mode {image.mode}; "
                f"window it to 8 bits first"
            )
        return parsed(image.convert, _MODES[channels])
    except UnreadableError as error:
        raise DataError(
            f"`dataroot` must hold readable images; {path!r} is not: {error.line}; replace the file"
        ) from error


def pins_memory(opt: HostOptions) -> bool:
    """Whether batches are to lie in pinned memory, from which a GPU fetches them by itself."""
    if opt.device is not None:
        return choose_device(opt.device).type == "cuda"
    return bool(opt.gpu_ids) and torch.cuda.is_available()


def _collate(samples: list[dict[str, Any]]) -> Any:
    for domain in DOMAINS:
        first = samples[0]
        for sample in samples:
            if sample[domain].shape != first[domain].shape:
                raise DataError(
                    f"`batch_size` above 1 needs images of one size; got {list(first[domain].shape)} in "
                    f"{first[f'{domain}_paths']!r} and {list(sample[domain].shape)} in {sample[f'{domain}_paths']!r}; "
                    f"set `preprocess` and `load_size`"
                )
    return default_collate(samples)
