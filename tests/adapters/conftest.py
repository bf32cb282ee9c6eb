"""Small hosts in the dialect, written from the described interface: they stand in where there is no checkout."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from roi_progressive import Config, RegionConfig
from roi_progressive.host import HostOptions, PatchGAN, ResnetGenerator, create_dataset


class ToyModel:
    """What the models of the dialect have in common."""

    def __init__(self, opt: Any) -> None:
        self.opt, self.isTrain, self.device = opt, True, torch.device("cpu")
        self.save_dir = str(Path(opt.checkpoints_dir) / opt.name)
        self.loss_names, self.visual_names, self.model_names = ["G"], ["real_A", "fake_B"], ["G", "D"]
        self.netG: nn.Module = ResnetGenerator(1, 1, 4, 1)
        self.optimizers: list[torch.optim.Optimizer] = []

    def _optimizer(self, *networks: nn.Module) -> torch.optim.Adam:
        made = torch.optim.Adam([p for net in networks for p in net.parameters()], lr=1e-3, betas=(0.5, 0.999))
        self.optimizers.append(made)
        return made

    def set_input(self, batch: Mapping[str, Any]) -> None:
        source, target = ("A", "B") if self.opt.direction == "AtoB" else ("B", "A")
        self.real_A, self.real_B = batch[source], batch[target]

    def compute_visuals(self) -> None:
        pass

    def get_current_visuals(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.visual_names}

    def get_current_losses(self) -> dict[str, float]:
        return {name: float(getattr(self, f"loss_{name}")) for name in self.loss_names}

    def save_networks(self, epoch: int | str) -> None:
        Path(self.save_dir).mkdir(parents=True, exist_ok=True)
        for name in self.model_names:
            torch.save(getattr(self, f"net{name}").state_dict(), Path(self.save_dir) / f"{epoch}_net_{name}.pth")


class ToyPix2Pix(ToyModel):
    """A conditional discriminator that is trained before the generator."""

    def __init__(self, opt: Any) -> None:
        super().__init__(opt)
        self.netD = PatchGAN(2, 4, 2)
        self.criterionL1 = nn.L1Loss()
        self.optimizer_G, self.optimizer_D = self._optimizer(self.netG), self._optimizer(self.netD)

    def forward(self) -> None:
        self.fake_B = self.netG(self.real_A)

    def optimize_parameters(self) -> None:
        self.forward()
        self.netD.requires_grad_(True)
        self.optimizer_D.zero_grad()
        fake = self.netD(torch.cat([self.real_A, self.fake_B.detach()], 1))
        real = self.netD(torch.cat([self.real_A, self.real_B], 1))
        ((fake**2).mean() + ((real - 1) ** 2).mean()).backward()
        self.optimizer_D.step()
        self.netD.requires_grad_(False)
        self.optimizer_G.zero_grad()
        self.backward_G()
        self.optimizer_G.step()

    def generator_loss(self) -> Tensor:
        judged = self.netD(torch.cat([self.real_A, self.fake_B], 1))
        loss: Tensor = ((judged - 1) ** 2).mean() + 10.0 * self.criterionL1(self.fake_B, self.real_B)
        return loss

    def backward_G(self) -> None:
        self.loss_G = self.generator_loss()
        self.loss_G.backward()


class ToyStyled(ToyPix2Pix):
    """A pix2pix whose backward is written in one of many ways; ``edited_in`` is a term written into its loss."""

    edited_in: Callable[[Tensor], Tensor] | None = None
    figure: Any = None

    @staticmethod
    def style(model: Any) -> None:
        model.loss_G = model.generator_loss()
        model.loss_G.backward()

    def parts(self) -> tuple[Tensor, Tensor]:
        judged = self.netD(torch.cat([self.real_A, self.fake_B], 1))
        ours = 0.0 if self.edited_in is None else self.edited_in(self.fake_B)
        return ((judged - 1) ** 2).mean() + ours, 10.0 * self.criterionL1(self.fake_B, self.real_B)

    def generator_loss(self) -> Tensor:
        return sum(self.parts())

    def backward_G(self) -> None:
        self.style(self)

    def own_loss(self) -> Tensor:
        """What the host's figure is of: its loss without ours."""
        judged = self.netD(torch.cat([self.real_A, self.fake_B], 1))
        return ((judged - 1) ** 2).mean() + 10.0 * self.criterionL1(self.fake_B, self.real_B)


class ToyTwoSteps(ToyStyled):
    """Two steps of the generator a batch."""

    def optimize_parameters(self) -> None:
        for _ in range(2):
            self.forward()
            self.optimizer_G.zero_grad()
            self.backward_G()
            self.optimizer_G.step()


class ToyAccumulating(ToyStyled):
    """Image by image, its loss divided."""

    def optimize_parameters(self) -> None:
        whole_A, whole_B = self.real_A, self.real_B
        self.optimizer_G.zero_grad()
        for place in range(len(whole_A)):
            self.real_A, self.real_B = whole_A[place : place + 1], whole_B[place : place + 1]
            self.forward()
            self.backward_G()
        self.optimizer_G.step()


class ToySumming(ToyStyled):
    """Image by image, all losses in one backward."""

    def optimize_parameters(self) -> None:
        whole_A, whole_B = self.real_A, self.real_B
        self.optimizer_G.zero_grad()
        self.loss_G = torch.zeros(())
        for place in range(len(whole_A)):
            self.real_A, self.real_B = whole_A[place : place + 1], whole_B[place : place + 1]
            self.forward()
            self.loss_G = self.loss_G + self.generator_loss()
        self.loss_G.backward()
        self.optimizer_G.step()


class ToyCUT(ToyModel):
    """One call translates both domains, mirrored at random; a third network is made at the first batch."""

    def __init__(self, opt: Any) -> None:
        super().__init__(opt)
        self.netF, self.netD = nn.Sequential(), PatchGAN(1, 4, 2)
        self.model_names = ["G", "F", "D"]
        self.optimizer_G, self.optimizer_D = self._optimizer(self.netG), self._optimizer(self.netD)

    def data_dependent_initialize(self, batch: Mapping[str, Any]) -> None:
        self.set_input(batch)
        self.forward()
        self.netF = nn.Conv2d(1, 1, 3)
        self.compute_G_loss().backward()
        self.optimizer_F = self._optimizer(self.netF)

    def parallelize(self) -> None:
        for name in self.model_names:
            setattr(self, f"net{name}", nn.DataParallel(getattr(self, f"net{name}"), []))

    def forward(self) -> None:
        both = torch.cat([self.real_A, self.real_B]) if self.opt.nce_idt else self.real_A
        if self.opt.flip_equivariance:
            self.flipped_for_equivariance = np.random.random() < 0.5
            both = torch.flip(both, [3]) if self.flipped_for_equivariance else both
        self.fake = self.netG(both)
        self.fake_B = self.fake[: len(self.real_A)]
        if self.opt.nce_idt:
            self.idt_B = self.fake[len(self.real_A) :]

    def compute_G_loss(self) -> Tensor:
        self.loss_G: Tensor = ((self.netD(self.fake_B) - 1) ** 2).mean() + self.netF(self.fake_B).abs().mean()
        if self.opt.nce_idt:
            self.loss_G = self.loss_G + self.idt_B.abs().mean()
        return self.loss_G

    def optimize_parameters(self) -> None:
        self.forward()
        self.netD.requires_grad_(True)
        self.optimizer_D.zero_grad()
        ((self.netD(self.fake_B.detach()) ** 2).mean() + ((self.netD(self.real_B) - 1) ** 2).mean()).backward()
        self.optimizer_D.step()
        self.netD.requires_grad_(False)
        for optimizer in (self.optimizer_G, self.optimizer_F):
            optimizer.zero_grad()
        self.compute_G_loss().backward()
        self.optimizer_G.step()
        self.optimizer_F.step()


class ToyScaled(ToyPix2Pix):
    """A fork that scales its loss after the method that makes it, and returns attention beside the image."""

    scale = 1.0

    def __init__(self, opt: Any) -> None:
        super().__init__(opt)
        self.netG = WithAttention()
        self.optimizers = []
        self.optimizer_G, self.optimizer_D = self._optimizer(self.netG), self._optimizer(self.netD)

    def forward(self) -> None:
        self.fake_B, self.attention = self.netG(self.real_A)

    def backward_G(self) -> None:
        self.loss_G = self.generator_loss()

    def optimize_parameters(self) -> None:
        self.forward()
        self.optimizer_G.zero_grad()
        self.backward_G()
        (self.loss_G * self.scale).backward()
        for parameter in self.netG.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.scale
        self.optimizer_G.step()


class WithAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.attention = ResnetGenerator(1, 1, 4, 1), nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(x), self.attention(x)


TOYS: dict[str, type[Any]] = {
    "pix2pix": ToyPix2Pix,
    "cut": ToyCUT,
    "scaled": ToyScaled,
    "styled": ToyStyled,
    "two steps": ToyTwoSteps,
    "accumulating": ToyAccumulating,
    "summing": ToySumming,
}


class SideBySide(Dataset[dict[str, Any]]):
    """Two images in one file, mirrored together or not."""

    def __init__(self, folder: Path) -> None:
        self.AB_paths = sorted(str(path) for path in folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self.AB_paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.AB_paths[index]
        pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 127.5 - 1.0
        halves = np.split(pixels[:, ::-1] if random.random() < 0.5 else pixels, 2, axis=1)
        a, b = (torch.from_numpy(half.copy())[None] for half in halves)
        return {"A": a, "B": b, "A_paths": path, "B_paths": path}


@pytest.fixture
def toy_options(host_options: Callable[..., HostOptions]) -> Callable[..., Any]:
    """Options of a toy; keywords change the bundled host's or, where it has none of that name, are added."""

    def options(**changes: Any) -> Any:
        own = {name: changes.pop(name) for name in ("nce_idt", "flip_equivariance") if name in changes}
        opt = host_options(**changes)
        for name, value in {"nce_idt": True, "flip_equivariance": False, **own}.items():
            object.__setattr__(opt, name, value)
        return opt

    return options


@pytest.fixture
def aligned(phantom_root: Path, tmp_path: Path) -> Path:
    """The phantom's slices side by side, and their masks alike."""
    for suffix in ("", "_tumor"):
        (tmp_path / f"pairs{suffix}").mkdir()
        sides = [sorted((phantom_root / f"train{domain}{suffix}").glob("*.png")) for domain in "AB"]
        for place, paths in enumerate(zip(*sides, strict=True)):
            pair = np.hstack([np.asarray(Image.open(path).convert("L")) for path in paths])
            Image.fromarray(pair).save(tmp_path / f"pairs{suffix}" / f"{place}.png")
    return tmp_path / "pairs"


@pytest.fixture
def build_toy(toy_options: Callable[..., Any], aligned: Path) -> Callable[..., tuple[Any, Any]]:
    """``build_toy("cut", flip_equivariance=True)``: a seeded toy and its loader."""

    def build(kind: str, **changes: Any) -> tuple[Any, Any]:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        opt = toy_options(**changes)
        model = TOYS[kind](opt)
        loader = create_dataset(opt) if kind == "cut" else DataLoader(SideBySide(aligned), opt.batch_size, shuffle=True)
        return model, loader

    return build


@pytest.fixture
def toy_step() -> Callable[[Any, Any], None]:
    """A step of any toy; CUT is set up at its first batch."""

    def step(model: Any, batch: Any) -> None:
        if isinstance(model, ToyCUT) and not hasattr(model, "optimizer_F"):
            model.data_dependent_initialize(batch)
            model.parallelize()
        model.set_input(batch)
        model.optimize_parameters()

    return step


@pytest.fixture
def tiny(tumor_config: Callable[..., Config], tiny_region: Callable[..., RegionConfig]) -> Callable[..., Config]:
    """Guidance of the tumour in small windows; keywords change it."""
    return lambda **changes: tumor_config(**{"regions": (tiny_region(scales=1),), **changes})
