"""The bundled trainer's own networks, adversarial loss and image pool."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError, ShapeError
from ..method.generator import UNetGenerator
from .options import HostOptions

_INIT_STD = 0.02


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with reflection padding and instance norm, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to the same shape."""
        output: Tensor = x + self.residual(x)
        return output


class ResnetGenerator(nn.Module):
    """The generator of Johnson et al. 2016 as CycleGAN uses it: 2 strided layers, residual blocks, 2 transposed ones.

    Args:
        in_channels: Channels of the source image.
        out_channels: Channels of the generated image.
        base_channels: Channels at full resolution; twice and four times as many at the halves.
        n_blocks: Residual blocks at a quarter of the resolution.
    """

    def __init__(self, in_channels: int, out_channels: int, base_channels: int = 32, n_blocks: int = 6) -> None:
        super().__init__()
        self.in_channels = in_channels
        width = base_channels
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, width, 7, bias=False)]
        layers += [nn.InstanceNorm2d(width), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)]
            layers += [nn.InstanceNorm2d(2 * width), nn.ReLU()]
            width *= 2
        layers += [ResnetBlock(width) for _ in range(n_blocks)]
        for _ in range(2):
            layers += [nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1, bias=False)]
            layers += [nn.InstanceNorm2d(width // 2), nn.ReLU()]
            width //= 2
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, out_channels, 7), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Translate ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``, both in [-1, 1].

        Raises:
            ShapeError: ``x`` has other channels, or sides that are under 8 px or no multiples of 4.
        """
        height_px, width_px = x.shape[-2:]
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ShapeError(f"`x` must have the shape [N, {self.in_channels}, H, W]; got {list(x.shape)}")
        if min(height_px, width_px) < 8 or height_px % 4 or width_px % 4:
            raise ShapeError(
                f"`x` must have sides of at least 8 px that are multiples of 4; got {height_px} x {width_px}; "
                f"resize the images or use netG='unet'"
            )
        image: Tensor = self.layers(x)
        return image


class PatchGAN(nn.Module):
    """The Markovian discriminator of Isola et al. 2017 on the whole image.

    4x4 convolutions with padding 1 and LeakyReLU 0.2; the last two have stride 1. A logit sees 70 x 70 px with 3
    strided layers, 34 x 34 px with 2.

    Args:
        in_channels: Channels of the image.
        base_channels: Channels of the first layer; they double up to eight times as many.
        n_layers: Layers with stride 2.
    """

    def __init__(self, in_channels: int, base_channels: int = 32, n_layers: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.smallest_px = 3 * 2**n_layers
        layers: list[nn.Module] = [nn.Conv2d(in_channels, base_channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = base_channels
        for index in range(1, n_layers + 1):
            wider = base_channels * min(2**index, 8)
            stride = 2 if index < n_layers else 1
            layers += [nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False)]
            layers += [nn.InstanceNorm2d(wider), nn.LeakyReLU(0.2)]
            width = wider
        layers += [nn.Conv2d(width, 1, 4, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Judge ``[N, in_channels, H, W]``: a map of logits ``[N, 1, h, w]``.

        Raises:
            ShapeError: ``x`` has other channels, or is too small for the layers.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[-2:]) < self.smallest_px:
            raise ShapeError(
                f"`x` must have the shape [N, {self.in_channels}, H, W] with sides of at least {self.smallest_px} px; "
                f"got {list(x.shape)}; use larger images or lower `n_layers_D`"
            )
        logits: Tensor = self.layers(x)
        return logits


def init_weights(net: nn.Module) -> nn.Module:
    """Draw all convolution weights from a normal of deviation 0.02 and set biases to 0, as CycleGAN does.

    An uncertainty head in ``net`` (``ggd_head``) keeps its own start, which fixes the first scale and shape.
    """
    for name, module in net.named_modules():
        if "ggd_head" not in name.split(".") and isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, _INIT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def build_generator(opt: HostOptions, in_channels: int, out_channels: int) -> nn.Module:
    """The initialised generator that ``opt.netG`` names."""
    if opt.netG == "unet":
        return init_weights(UNetGenerator(in_channels, out_channels, opt.ngf, opt.unet_depth))
    return init_weights(ResnetGenerator(in_channels, out_channels, opt.ngf, opt.n_blocks))


def build_discriminator(opt: HostOptions, in_channels: int) -> nn.Module:
    """The initialised whole-image discriminator."""
    return init_weights(PatchGAN(in_channels, opt.ndf, opt.n_layers_D))


class GANLoss(nn.Module):
    """The adversarial loss against a constant target, averaged over all logits.

    Args:
        gan_mode: ``lsgan``, least squares (Mao et al. 2017), or ``vanilla``, cross entropy on logits.

    Raises:
        ConfigError: The mode is unknown.
    """

    def __init__(self, gan_mode: str = "lsgan") -> None:
        super().__init__()
        if gan_mode not in ("lsgan", "vanilla"):
            raise ConfigError(f"`gan_mode` must be one of lsgan, vanilla; got {gan_mode!r}")
        self.gan_mode = gan_mode

    def forward(self, prediction: Tensor, target_is_real: bool) -> Tensor:
        """Distance of logits of any shape from 1 (real) or 0 (generated); a scalar."""
        target = torch.full_like(prediction, float(target_is_real))
        if self.gan_mode == "lsgan":
            return functional.mse_loss(prediction, target)
        return functional.binary_cross_entropy_with_logits(prediction, target)


class ImagePool:
    """Past generated images, so that a discriminator does not only see the newest (Shrivastava et al. 2017).

    Attributes:
        pool_size: Most images kept; 0 keeps none.
        num_imgs: Images kept now.
        images: Those images, each ``[1, C, H, W]``.
    """

    def __init__(self, pool_size: int) -> None:
        self.pool_size = pool_size
        self.num_imgs = 0
        self.images: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        """Exchange generated images for a mixture of them and older ones.

        Until the pool is full every image is kept and returned. From then on each is, with even odds, returned as
        it came or put in the place of an older one, which is returned. Chance comes from Python's ``random``.

        Args:
            images: ``[N, C, H, W]``.

        Returns:
            ``[N, C, H, W]``, detached.
        """
        new = images.detach()
        if self.pool_size == 0:
            return new
        return torch.cat([self._exchange(new[i : i + 1]) for i in range(len(new))])

    def _exchange(self, image: Tensor) -> Tensor:
        if self.num_imgs < self.pool_size:
            self.images.append(image.clone())
            self.num_imgs += 1
            return image
        if random.random() < 0.5:
            return image
        place = random.randrange(self.pool_size)
        older, self.images[place] = self.images[place], image.clone()
        return older
