"""The bundled CycleGAN (Zhu et al. 2017), with the attributes and methods of the junyanz dialect."""

from __future__ import annotations

import itertools
import math
import os
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ..errors import CheckpointError, ConfigError
from ..runtime.devices import autocasting, choose_device, grad_scaler
from ..saving.checkpoint import read_network, write_network
from .networks import GANLoss, ImagePool, build_discriminator, build_generator
from .options import HostOptions
from .ranks import data_parallel, part_random_streams, unwrapped


class CycleGANModel:
    """Two generators and two discriminators, trained on unpaired images.

    ``netG_A`` translates A to B and ``netG_B`` back; ``netD_A`` judges images of B and ``netD_B`` images of A.
    One step is ``set_input(batch)`` and ``optimize_parameters()``; call ``setup(opt)`` once before the first and
    ``update_learning_rate()`` at the end of every epoch.

    Args:
        opt: The options.

    Raises:
        ConfigError: A GPU is asked for and there is none.
    """

    real_A: Tensor
    real_B: Tensor
    fake_A: Tensor
    fake_B: Tensor
    rec_A: Tensor
    rec_B: Tensor
    idt_A: Tensor
    idt_B: Tensor
    schedulers: list[LambdaLR | ReduceLROnPlateau]
    metric: float

    def __init__(self, opt: HostOptions) -> None:
        self.opt = opt
        self.isTrain = opt.isTrain
        self.gpu_ids = opt.gpu_ids
        self.device = _device(opt)
        self.save_dir = os.path.join(opt.checkpoints_dir, opt.name)
        self.image_paths: list[str] = []
        self.loss_names = [f"{term}_{side}" for side in "AB" for term in ("D", "G", "cycle", "idt")]
        self.visual_names = ["real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B"]
        self.model_names = ["G_A", "G_B"] + (["D_A", "D_B"] if opt.isTrain else [])
        self.optimizers: list[Optimizer] = []
        self.netG_A = build_generator(opt, opt.channels_A, opt.channels_B).to(self.device)
        self.netG_B = build_generator(opt, opt.channels_B, opt.channels_A).to(self.device)
        if opt.isTrain:
            self._prepare_training(opt)

    def _prepare_training(self, opt: HostOptions) -> None:
        if opt.lambda_identity > 0:
            self.visual_names += ["idt_B", "idt_A"]
        self.netD_A = build_discriminator(opt, opt.channels_B).to(self.device)
        self.netD_B = build_discriminator(opt, opt.channels_A).to(self.device)
        self.fake_A_pool = ImagePool(opt.pool_size)
        self.fake_B_pool = ImagePool(opt.pool_size)
        self.criterionGAN = GANLoss(opt.gan_mode)
        self.criterionCycle = nn.L1Loss()
        self.criterionIdt = nn.L1Loss()
        betas = (opt.beta1, 0.999)
        generators = itertools.chain(self.netG_A.parameters(), self.netG_B.parameters())
        discriminators = itertools.chain(self.netD_A.parameters(), self.netD_B.parameters())
        self.optimizer_G = Adam(generators, lr=opt.lr, betas=betas)
        self.optimizer_D = Adam(discriminators, lr=opt.lr, betas=betas)
        self.optimizers += [self.optimizer_G, self.optimizer_D]
        self.scaler = grad_scaler(self.device, opt.precision)

    def setup(self, opt: HostOptions) -> None:
        """Make the schedulers, load networks where ``opt`` says so, and join the other processes of a training.

        Call once, before training or testing.

        Raises:
            CheckpointError: A network to load is missing or damaged, or a new run would write over an older one.
        """
        if self.isTrain:
            self.schedulers = [_scheduler(optimizer, opt) for optimizer in self.optimizers]
        if opt.continue_train or not self.isTrain:
            self.load_networks(f"iter_{opt.load_iter}" if opt.load_iter > 0 else opt.epoch)
        elif not opt.force and any(Path(self.save_dir).glob("*_net_*.pth")):
            raise CheckpointError(
                f"`name` must be new for a new run; {self.save_dir!r} already holds networks; "
                f"take another name, set `continue_train`, or write over them with `force`"
            )
        if self.isTrain:
            for name, net in self._networks().items():
                setattr(self, f"net{name}", data_parallel(net, self.device))
            part_random_streams(opt)
        if opt.compile:
            for net in self._networks().values():
                net.compile()  # in place: the names in its state stay

    def set_input(self, data: Mapping[str, Any]) -> None:
        """Take a batch: ``A`` and ``B``, ``[N, C, H, W]`` in [-1, 1], and their ``A_paths`` and ``B_paths``."""
        source, target = ("A", "B") if self.opt.direction == "AtoB" else ("B", "A")
        # From pinned memory a GPU fetches them while the CPU goes on; elsewhere this changes nothing.
        self.real_A = data[source].to(self.device, non_blocking=True)
        self.real_B = data[target].to(self.device, non_blocking=True)
        self.image_paths = data[f"{source}_paths"]

    def forward(self) -> None:
        """Translate both ways and back."""
        with self._autocast():
            self.fake_B = self.netG_A(self.real_A)
            self.rec_A = self.netG_B(self.fake_B)
            self.fake_A = self.netG_B(self.real_B)
            self.rec_B = self.netG_A(self.fake_A)

    def backward_G(self) -> None:
        """Losses of both generators, and their gradients."""
        with self._autocast():
            self._compute_loss_G()
        self._backward(self.loss_G)

    def _compute_loss_G(self) -> None:
        share = self.opt.lambda_identity
        self.loss_idt_A = self.loss_idt_B = torch.zeros((), device=self.device)
        if share > 0:
            self.idt_A = self.netG_A(self.real_B)
            self.idt_B = self.netG_B(self.real_A)
            self.loss_idt_A = self.criterionIdt(self.idt_A, self.real_B) * self.opt.lambda_B * share
            self.loss_idt_B = self.criterionIdt(self.idt_B, self.real_A) * self.opt.lambda_A * share
        self.loss_G_A = self.criterionGAN(self.netD_A(self.fake_B), True)
        self.loss_G_B = self.criterionGAN(self.netD_B(self.fake_A), True)
        self.loss_cycle_A = self.criterionCycle(self.rec_A, self.real_A) * self.opt.lambda_A
        self.loss_cycle_B = self.criterionCycle(self.rec_B, self.real_B) * self.opt.lambda_B
        adversarial = self.loss_G_A + self.loss_G_B
        self.loss_G = adversarial + self.loss_cycle_A + self.loss_cycle_B + self.loss_idt_A + self.loss_idt_B

    def backward_D_basic(self, netD: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of one discriminator, and its gradient: half the sum of its errors on real and generated images."""
        with self._autocast():
            on_real = self.criterionGAN(netD(real), True)
            on_fake = self.criterionGAN(netD(fake.detach()), False)
            loss: Tensor = (on_real + on_fake) / 2
        self._backward(loss)
        return loss

    def backward_D_A(self) -> None:
        """Loss and gradient of the discriminator of domain B."""
        self.loss_D_A = self.backward_D_basic(self.netD_A, self.real_B, self.fake_B_pool.query(self.fake_B))

    def backward_D_B(self) -> None:
        """Loss and gradient of the discriminator of domain A."""
        self.loss_D_B = self.backward_D_basic(self.netD_B, self.real_A, self.fake_A_pool.query(self.fake_A))

    def optimize_parameters(self) -> None:
        """One step of the generators, with the discriminators frozen, then one of the discriminators."""
        self.forward()
        self.set_requires_grad([self.netD_A, self.netD_B], False)
        self.optimizer_G.zero_grad()
        self.backward_G()
        self._step(self.optimizer_G)
        self.set_requires_grad([self.netD_A, self.netD_B], True)
        self.optimizer_D.zero_grad()
        self.backward_D_A()
        self.backward_D_B()
        self._step(self.optimizer_D)
        if self.scaler is not None:
            self.scaler.update()

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocasting(self.device, self.opt.precision)

    def _backward(self, loss: Tensor) -> None:
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        torch.autograd.backward(scaled)

    def _step(self, optimizer: Optimizer) -> None:
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)

    def set_requires_grad(self, nets: nn.Module | Sequence[nn.Module], requires_grad: bool = False) -> None:
        """Let the parameters of ``nets`` take gradients, or not."""
        for net in [nets] if isinstance(nets, nn.Module) else nets:
            net.requires_grad_(requires_grad)

    def eval(self) -> None:
        """Put all networks into evaluation mode."""
        for net in self._networks().values():
            net.eval()

    def test(self) -> None:
        """Translate without gradients."""
        with torch.no_grad():
            self.forward()
            self.compute_visuals()

    def compute_visuals(self) -> None:
        """Nothing more to compute: all visuals are made in ``forward`` and ``backward_G``."""

    def update_learning_rate(self) -> None:
        """Move the learning rates on, by ``metric`` where they wait for a plateau; call at the end of an epoch."""
        for scheduler in self.schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(self.metric)
            else:
                scheduler.step()

    def get_current_losses(self) -> OrderedDict[str, float]:
        """Losses of the last step by ``loss_names``, tensors and plain numbers alike; empty before the first step."""
        made = ((name, getattr(self, f"loss_{name}", None)) for name in self.loss_names)
        values = ((name, loss.detach() if isinstance(loss, Tensor) else loss) for name, loss in made)
        return OrderedDict((name, float(value)) for name, value in values if value is not None)

    def get_current_visuals(self) -> OrderedDict[str, Tensor]:
        """Images of the last step or test by ``visual_names``, ``[N, C, H, W]`` in [-1, 1]."""
        made = (name for name in self.visual_names if hasattr(self, name))
        return OrderedDict((name, getattr(self, name)) for name in made)

    def save_networks(self, epoch: int | str) -> None:
        """Write ``<epoch>_net_<name>.pth`` for every network into ``save_dir``, each aside first and then renamed.

        Raises:
            CheckpointError: One cannot be written.
        """
        for name, net in self._networks().items():
            write_network(self._path(epoch, name), net)

    def load_networks(self, epoch: int | str) -> None:
        """Read what ``save_networks`` wrote; no network changes unless all files are good.

        Raises:
            CheckpointError: A file is missing, damaged, or belongs to a network of another shape.
        """
        networks = self._networks()
        states = {name: read_network(self._path(epoch, name), net, self.device) for name, net in networks.items()}
        for name, net in networks.items():
            net.load_state_dict(states[name])

    def _path(self, epoch: int | str, name: str) -> Path:
        return Path(self.save_dir, f"{epoch}_net_{name}.pth")

    def _networks(self) -> dict[str, nn.Module]:
        return {name: unwrapped(getattr(self, f"net{name}")) for name in self.model_names}


def create_model(opt: HostOptions) -> CycleGANModel:
    """The model that ``opt`` describes; with ``opt.seed`` it seeds Python's ``random`` and torch first.

    Raises:
        ConfigError: A GPU is asked for and there is none.
    """
    if opt.seed is not None:
        random.seed(opt.seed)
        torch.manual_seed(opt.seed)
    return CycleGANModel(opt)


def _device(opt: HostOptions) -> torch.device:
    if opt.device is not None:
        return choose_device(opt.device)
    gpu_ids = opt.gpu_ids
    if not gpu_ids:
        return torch.device("cpu")
    if gpu_ids[0] >= torch.cuda.device_count():
        raise ConfigError(
            f"`gpu_ids` must name a GPU of this machine; got {list(gpu_ids)} and there are "
            f"{torch.cuda.device_count()}; leave it empty for the CPU"
        )
    return torch.device("cuda", gpu_ids[0])


def _scheduler(optimizer: Optimizer, opt: HostOptions) -> LambdaLR | ReduceLROnPlateau:
    if opt.lr_policy == "plateau":
        return ReduceLROnPlateau(optimizer, mode="min", factor=0.2, threshold=0.01, patience=5)
    return LambdaLR(optimizer, lambda step: _rate(opt, step))


def _rate(opt: HostOptions, finished_epochs: int) -> float:
    """Learning-rate factor after so many epochs since ``epoch_count``; of ``linear`` 1, then in equal steps down to 0
    after the last epoch."""
    done = opt.epoch_count - 1 + finished_epochs
    if opt.lr_policy == "constant":
        return 1.0
    if opt.lr_policy == "step":
        return float(0.1 ** (done // opt.lr_decay_iters))
    if opt.lr_policy == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * min(done / (opt.n_epochs + opt.n_epochs_decay), 1.0))
    decayed = opt.epoch_count + finished_epochs - opt.n_epochs
    return 1.0 - min(max(decayed, 0), opt.n_epochs_decay + 1) / (opt.n_epochs_decay + 1)
