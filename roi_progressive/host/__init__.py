"""The bundled CycleGAN trainer, in the junyanz dialect; it knows nothing of sessions, regions or masks."""

from .dataset import ImageLoader, ImageTransform, UnalignedDataset, create_dataset
from .model import CycleGANModel, create_model
from .networks import GANLoss, ImagePool, PatchGAN, ResnetGenerator
from .options import HostOptions

__all__ = [
    "CycleGANModel",
    "GANLoss",
    "HostOptions",
    "ImageLoader",
    "ImagePool",
    "ImageTransform",
    "PatchGAN",
    "ResnetGenerator",
    "UnalignedDataset",
    "create_dataset",
    "create_model",
]
