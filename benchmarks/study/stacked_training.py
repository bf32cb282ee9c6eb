"""Train many runs of the bundled CycleGAN at once, each with its own knobs, seed and patients, and translate with them.

The same step as ``roi_progressive.host.CycleGANModel`` and a session make it, on stacked networks: it is for choosing
among many arms on a GPU, and no figure of the study's headline comes from it. Windows are whole images with everything
outside the visible region painted, as ``windows_px = (64,)`` gives them at 64 px.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .glioma_data import Gliomas, test_fold, tuned_and_tested, tuning_fold
from .stacked_arms import Judge, Knobs, Pixels, Stack
from .stacked_networks import StackedPatchGAN, StackedUNet

POOL = 50
DISCS_A_SLICE = 48
HEALTHY_GAP_PX = 2.0
LESION_SHARE = 0.5
DECAYS = {"ema99": 0.99, "ema998": 0.998}


@dataclass
class Plan:
    """Everything that chance decides of a stack's runs, drawn beforehand on the CPU: ``[steps, N, slots]`` each.

    Slot ``r`` is the direction A2B of run r, slot ``R + r`` its B2A. Indices count the images of A and then those of B.
    """

    source: Tensor
    real: Tensor
    flip_source: Tensor
    flip_real: Tensor
    read: Tensor
    write: Tensor


def draw_plan(stack: Stack, data: Gliomas, device: torch.device) -> Plan:
    """Draw the plan; runs of equal seed see the same images in the same order, whatever their arm."""
    n_runs, n_slices = len(stack.runs), len(data.names)
    shape = (stack.steps, stack.batch_size, n_runs)
    a, b = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    flips = np.zeros((2, *shape), bool)
    read, write = np.zeros((2, *shape), np.int64), np.zeros((2, *shape), np.int64)
    for run, (arm, seed) in enumerate(stack.runs):
        knobs, rng = stack.arms[arm], np.random.default_rng(seed)
        fold = test_fold(data.patients) if stack.test else tuning_fold(data.patients, seed)
        if knobs.per_domain:
            fold = fold.shortened(knobs.per_domain)
        if knobs.paired_l1 or knobs.shared:
            fold = fold.shared()
        give_a, give_b = np.array(data.of(fold.give_A)), np.array(data.of(fold.give_B))
        count = stack.steps * stack.batch_size
        epochs = [rng.permutation(give_a) for _ in range(-(-count // len(give_a)))]
        a[:, :, run] = np.concatenate(epochs)[:count].reshape(shape[:2])
        b[:, :, run] = give_b[rng.integers(len(give_b), size=shape[:2])]
        if knobs.paired_l1:
            b[:, :, run] = a[:, :, run]
        if knobs.flip:
            flips[:, :, :, run] = rng.random((2, *shape[:2])) < 0.5
            if knobs.paired_l1:
                flips[1, :, :, run] = flips[0, :, :, run]
        for direction in range(2):
            read[direction, :, :, run], write[direction, :, :, run] = pool_moves(rng, *shape[:2])
    give = {
        "source": np.concatenate([a, b + n_slices], axis=2),
        "real": np.concatenate([b + n_slices, a], axis=2),
        "flip_source": np.concatenate([flips[0], flips[1]], axis=2),
        "flip_real": np.concatenate([flips[1], flips[0]], axis=2),
        "read": np.concatenate(list(read), axis=2),
        "write": np.concatenate(list(write), axis=2),
    }
    return Plan(**{name: torch.from_numpy(values).to(device) for name, values in give.items()})


def pool_moves(rng: np.random.Generator, steps: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every generated image: which place of the pool it is swapped with, -1 for none, and where it goes, the place
    after the last for nowhere."""
    count = steps * batch_size
    fresh, place = rng.random(count) < 0.5, rng.integers(POOL, size=count)
    filling = np.arange(count) < POOL
    read = np.where(filling | fresh, -1, place)
    write = np.where(filling, np.arange(count), np.where(fresh, POOL, place))
    return read.reshape(steps, batch_size), write.reshape(steps, batch_size)


class Pool:
    """Earlier generated windows, swapped as a plan says."""

    def __init__(self, slots: int, channels: int, size_px: int, device: torch.device) -> None:
        self._kept = torch.zeros(slots, POOL + 1, channels, size_px, size_px, device=device)
        self._slots = torch.arange(slots, device=device)

    @torch.no_grad()
    def swap(self, images: Tensor, read: Tensor, write: Tensor) -> Tensor:
        """``[N, slots, C, H, W]`` to the same shape."""
        given = []
        for fresh, source, target in zip(images, read, write, strict=True):
            old = self._kept[self._slots, source.clamp_min(0)]
            given.append(torch.where((source >= 0)[:, None, None, None], old, fresh))
            self._kept[self._slots, target] = fresh
        return torch.stack(given)


class Family:
    """The judges of equal structure of several runs.

    Args:
        judges: ``(run, judge)``.
    """

    def __init__(self, judges: Sequence[tuple[int, Judge]], stack: Stack, device: torch.device) -> None:
        n_runs = len(stack.runs)
        self.judge = judges[0][1]
        runs = [run for run, _ in judges]
        self.slots = torch.tensor([*runs, *(n_runs + run for run in runs)], device=device)
        twice = [judge for _, judge in judges] * 2
        seeds = [stack.runs[run][1] + 7000 for run in runs]
        seeds = [*seeds, *(seed + 500 for seed in seeds)]
        shape = (self.judge.channels, self.judge.layers, 1, self.judge.norm)
        self.networks = [
            StackedPatchGAN([s + 31 * k for s in seeds], *shape).to(device) for k in range(self.judge.scales)
        ]
        self.weight = torch.tensor([judge.weight for judge in twice], device=device)
        self.context = torch.tensor([judge.context_px for judge in twice], device=device)
        self.r1 = torch.tensor([judge.r1 for judge in twice], device=device)
        self.matching = torch.tensor([judge.matching for judge in twice], device=device)
        self.radius = torch.tensor([judge.radius_px for judge in twice], device=device)
        self.pool = Pool(len(twice), 3, stack.size_px, device)
        self.rate = self.judge.rate

    def parameters(self) -> list[Tensor]:
        return [parameter for network in self.networks for parameter in network.parameters()]

    def seen(self, window: Tensor) -> list[tuple[StackedPatchGAN, list[Tensor], Tensor]]:
        """Features and logits of every scale, with the region at that scale; ``window`` holds pixels and region,
        ``[N, slots, 2, H, W]``."""
        pixels, region = window[:, :, 0], window[:, :, 1]
        found = []
        for level, network in enumerate(self.networks):
            if level:
                pixels, region = (F.avg_pool2d(image, 2, ceil_mode=True) for image in (pixels, region))
            found.append((network, network.features(pixels), region))
        return found

    def loss(self, window: Tensor, target: float) -> Tensor:
        """Least squares toward a target, ``[slots]``: mean over scales and over the samples that hold the region."""
        per_scale = [
            weighted((maps[-1] - target).square(), region, network.geometry)
            for network, maps, region in self.seen(window)
        ]
        return mean_of_held(torch.stack(per_scale).mean(dim=0), window[:, :, 1])

    def matching_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Distance of the region's mean features of generated and of real windows, ``[slots]``."""
        terms = []
        held = (window[:, :, 1].amax(dim=(2, 3)) > 0 for window in (fake, real))
        both = torch.stack([of.any(dim=0) for of in held]).all(dim=0)
        for (network, ours, region), (_, theirs, their_region) in zip(self.seen(fake), self.seen(real), strict=True):
            for level, (a, b) in enumerate(zip(ours[:-1], theirs[:-1], strict=True)):
                means = [
                    region_mean(x, r, network.geometry[: level + 1], len(self.slots))
                    for x, r in ((a, region), (b, their_region))
                ]
                terms.append((means[0] - means[1].detach()).abs().mean(dim=-1))
        return torch.stack(terms).mean(dim=0) * both


def logit_weights(region: Tensor, geometry: Sequence[tuple[int, int, int]]) -> Tensor:
    """The package's weights of logits, on the device: every convolution as the mean over its kernel."""
    for kernel, stride, padding in geometry:
        region = F.avg_pool2d(region, kernel, stride, padding)
    return region


def weighted(loss: Tensor, region: Tensor, geometry: Sequence[tuple[int, int, int]]) -> Tensor:
    """The mean of a map ``[N, slots, h, w]``, each logit by how much of the region it sees: ``[N, slots]``."""
    n, slots = region.shape[:2]
    weights = logit_weights(region.reshape(n * slots, 1, *region.shape[2:]), geometry).reshape(loss.shape)
    return (loss * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp_min(1e-12)


def region_mean(maps: Tensor, region: Tensor, geometry: Sequence[tuple[int, int, int]], slots: int) -> Tensor:
    """Mean features over the region of all samples: ``[slots, channels]``."""
    n = maps.shape[0]
    weights = logit_weights(region.reshape(n * slots, 1, *region.shape[2:]), geometry).reshape(
        n, slots, 1, *maps.shape[2:]
    )
    values = maps.unflatten(1, (slots, -1)) * weights
    return values.sum(dim=(0, 3, 4)) / weights.sum(dim=(0, 3, 4)).clamp_min(1e-12)


def mean_of_held(loss: Tensor, region: Tensor) -> Tensor:
    """The mean over the samples that hold the region, ``[N, slots]`` to ``[slots]``; zero where none does."""
    held = (region.amax(dim=(2, 3)) > 0).to(loss.dtype)
    return (loss * held).sum(dim=0) / held.sum(dim=0).clamp_min(1)


def self_similarity(image: Tensor) -> Tensor:
    """MIND: how like a pixel's surroundings are to those two pixels away, four ways, ``[4, N, slots, H, W]``."""
    shifts = ((0, 2), (0, -2), (2, 0), (-2, 0))
    distances = torch.stack([F.avg_pool2d((image - image.roll(shift, (2, 3))).square(), 3, 1, 1) for shift in shifts])
    return torch.exp(-distances / (distances.mean(dim=0, keepdim=True) + 1e-2))


class StackedTraining:
    """The training of a stack, on one device.

    Args:
        stack: What is trained.
        data: The slices.
        device: Where.
        places: What ``healthy_places`` found, where it was asked before.
    """

    def __init__(
        self,
        stack: Stack,
        data: Gliomas,
        device: torch.device,
        places: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.stack, self.data, self.device = stack, data, device
        runs, knobs = stack.runs, [stack.arms[arm] for arm, _ in stack.runs]
        self.n_runs = len(runs)
        images = np.concatenate([data.images["A"], data.images["B"]])
        self.images = torch.from_numpy(images).to(device).float().div_(127.5).sub_(1.0)
        masks = torch.from_numpy(data.masks).to(device)
        self.masks = torch.cat([masks, masks])
        contexts = sorted({judge.context_px for of in knobs for judge in of.judges} | {0, 6})
        grown = [masks if c == 0 else F.max_pool2d(masks[:, None].float(), 2 * c + 1, 1, c)[:, 0] > 0 for c in contexts]
        self.grown = torch.stack([torch.cat([mask, mask]) for mask in grown])
        self.context_place = {context: place for place, context in enumerate(contexts)}
        self.rest, self.discs = (torch.from_numpy(found).to(device) for found in places or healthy_places(data))
        self.shuffled = torch.from_numpy(shuffled_within_patients(data, 0)).to(device)
        seeds = [seed for _, seed in runs]
        both = [*seeds, *(seed + 500 for seed in seeds)]
        self.generators = StackedUNet(both, 1, stack.channels, stack.depth).to(device)
        self.judges = StackedPatchGAN([seed + 3000 for seed in both], 16, 2).to(device)
        self.pool = Pool(len(both), 1, stack.size_px, device)

        def of(name: str) -> Tensor:
            return torch.tensor([float(getattr(knob, name)) for knob in knobs] * 2, device=device)

        self.cycle, self.paired_l1, self.region_cycle, self.mind = map(
            of, ("cycle", "paired_l1", "region_cycle", "mind")
        )
        # Told once: asking a tensor within a step would wait for the GPU.
        self.asked = {name for name in ("paired_l1", "region_cycle", "mind") if any(getattr(k, name) for k in knobs)}
        self.first_step = min(knob.from_fraction for knob in knobs) * stack.steps
        self.start, self.fade = of("from_fraction") * stack.steps, of("fade_fraction") * stack.steps
        groups: dict[tuple[Any, ...], list[tuple[int, Judge]]] = {}
        seen: dict[tuple[Any, ...], list[tuple[int, Pixels]]] = {}
        for run, knob in enumerate(knobs):
            for place, judge in enumerate(knob.judges):
                groups.setdefault((place, *judge.structure()), []).append((run, judge))
            for pixels in knob.pixels:
                seen.setdefault(pixels.structure(), []).append((run, pixels))
        self.families = [Family(judges, stack, device) for judges in groups.values()]
        self.pixels = [PixelFamily(of_kind, stack, device) for of_kind in seen.values()]
        self.averages = {name: [p.detach().clone() for p in self.generators.parameters()] for name in DECAYS}
        self.plan = draw_plan(stack, data, device)
        fused = {"fused": True} if device.type == "cuda" else {"foreach": True}

        def adam(groups: Sequence[tuple[Sequence[Tensor], float]]) -> torch.optim.Adam:
            listed = [{"params": list(parameters), "factor": factor} for parameters, factor in groups if parameters]
            return torch.optim.Adam(listed, lr=stack.learning_rate, betas=(0.5, 0.999), **fused)

        self.optimizer_G = adam([(list(self.generators.parameters()), 1.0)])
        self.optimizer_D = adam(
            [
                (list(self.judges.parameters()), 1.0),
                *((family.parameters(), family.rate) for family in self.families),
                *((list(family.network.parameters()), 1.0) for family in self.pixels),
            ]
        )

    def swap(self, images: Tensor) -> Tensor:
        """The two directions exchanged."""
        return torch.cat([images[:, self.n_runs :], images[:, : self.n_runs]], dim=1)

    def translate(self, images: Tensor) -> Tensor:
        return torch.tanh(self.generators(images))

    def step(self, number: int) -> None:
        """One step of all runs, counted from 0."""
        self._set_rate(number)
        plan = self.plan
        source, real = plan.source[number], plan.real[number]
        flip = {"source": plan.flip_source[number], "real": plan.flip_real[number]}
        source_images, real_images = (
            self._flipped(self.images[index], flip[kind]) for kind, index in (("source", source), ("real", real))
        )
        windows = [
            (family, self._windows(family, source, flip["source"]), self._windows(family, real, flip["real"]))
            for family in self.families
        ]
        fake = self.translate(source_images)
        reconstruction = self.swap(self.translate(self.swap(fake)))
        loss = (self.judges(fake) - 1).square().mean(dim=(0, 2, 3))
        difference = (reconstruction - source_images).abs()
        loss = loss + self.cycle * difference.mean(dim=(0, 2, 3))
        if "paired_l1" in self.asked:
            loss = loss + self.paired_l1 * (fake - real_images).abs().mean(dim=(0, 2, 3))
        ramp = ((number + 1 - self.start) / self.fade.clamp_min(1)).clamp(0, 1)
        if "region_cycle" in self.asked:
            inside = self._flipped(self.masks[source], flip["source"]).float()
            loss = loss + ramp * self.region_cycle * (difference * inside).sum((0, 2, 3)) / inside.sum(
                (0, 2, 3)
            ).clamp_min(1)
        if "mind" in self.asked:
            near = self._flipped(self.grown[self.context_place[6]][source], flip["source"]).float()
            apart = (self_similarity(fake) - self_similarity(source_images)).abs().mean(dim=0)
            loss = loss + ramp * self.mind * (apart * near).sum((0, 2, 3)) / near.sum((0, 2, 3)).clamp_min(1)
        total = loss.sum()
        shown = []
        if number >= self.first_step:
            for family, of_source, of_real in windows:
                slots = family.slots
                view = self._look(family, fake[:, slots], *of_source)
                target = self._look(family, real_images[:, slots], *of_real)
                of_family = family.weight * family.loss(view, 1.0)
                if family.judge.matching > 0:
                    of_family = of_family + family.matching * family.matching_loss(view, target)
                total = total + (ramp[slots] * of_family).sum()
                shown.append((family, of_source, of_real))
            for pixels in self.pixels:
                slots = pixels.slots
                region = self._flipped(self.masks[source], flip["source"])[:, slots]
                near = self._flipped(self.grown[self.context_place[6]][source], flip["source"])[:, slots]
                of_pixels = pixels.generator_loss(fake[:, slots], region, near)
                total = total + (ramp[slots] * pixels.weight * of_pixels).sum()
        self.optimizer_G.zero_grad(set_to_none=True)
        parameters = list(self.generators.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
            parameter.grad = gradient
        self.optimizer_G.step()
        self._move_averages(number + 1, parameters)
        self._discriminator_step(number, fake.detach(), real_images, real, flip["real"], shown)

    def _discriminator_step(
        self, number: int, fake: Tensor, real_images: Tensor, real: Tensor, flip: Tensor, shown: Sequence[Any]
    ) -> None:
        read, write = self.plan.read[number], self.plan.write[number]
        old = self.pool.swap(fake[:, :, None], read, write)[:, :, 0]
        total = 0.5 * (self.judges(old).square() + (self.judges(real_images) - 1).square()).mean(dim=(0, 2, 3)).sum()
        for family, of_source, of_real in shown:
            slots = family.slots
            seen = torch.stack([self._paint(fake[:, slots], of_source[1]), *(m.float() for m in of_source)], dim=2)
            kept = family.pool.swap(seen, read[:, slots], write[:, slots])
            judged = self._look(family, kept[:, :, 0], kept[:, :, 1] > 0.5, kept[:, :, 2] > 0.5)
            actual = self._look(family, real_images[:, slots], *of_real)
            if family.judge.r1 > 0:
                actual = actual.detach().requires_grad_()
            joined = number >= self.start[slots]
            total = total + 0.5 * (joined * (family.loss(judged, 0.0) + family.loss(actual, 1.0))).sum()
            if family.judge.r1 > 0:
                score = torch.stack([weighted(m[-1], r, n.geometry) for n, m, r in family.seen(actual)]).sum()
                (slope,) = torch.autograd.grad(score, actual, create_graph=True)
                total = total + (0.5 * family.r1 * slope[:, :, 0].square().sum(dim=(2, 3)).mean(dim=0)).sum()
        if shown:
            for pixels in self.pixels:
                region = self._flipped(self.masks[real], flip)[:, pixels.slots]
                total = total + pixels.own_loss(fake[:, pixels.slots], real_images[:, pixels.slots], region).sum()
        self.optimizer_D.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer_D.step()

    def _windows(self, family: Family, index: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
        """The region of each image of a family and what is visible around it, ``[N, slots, H, W]`` bool."""
        index, flip = index[:, family.slots], flip[:, family.slots]
        kind = family.judge.region
        if kind == "disc":
            region = self._discs(family, index)
            return region, region
        if kind == "rest":
            near = self.grown[self._places(family), index]
            region = self.rest[index % len(self.rest)] & ~near
            return self._flipped(region, flip), self._flipped(~near, flip)
        if kind == "shuffled":
            index = self.shuffled[index % len(self.shuffled)]
        region, visible = self.masks[index], self.grown[self._places(family), index]
        return self._flipped(region, flip), self._flipped(visible, flip)

    def _places(self, family: Family) -> Tensor:
        places = (
            [self.context_place[int(context)] for context in family.context.tolist()]
            if not hasattr(family, "places")
            else None
        )
        if places is not None:
            family.places = torch.tensor(places, device=self.device)  # type: ignore[attr-defined]
        found: Tensor = family.places  # type: ignore[attr-defined]
        return found.expand(self.stack.batch_size, -1)

    def _discs(self, family: Family, index: Tensor) -> Tensor:
        choice = torch.randint(DISCS_A_SLICE, index.shape, device=self.device)
        centre = self.discs[index % len(self.discs), choice]
        line = torch.arange(self.stack.size_px, device=self.device)
        rows = (line - centre[..., 0, None]).square()
        columns = (line - centre[..., 1, None]).square()
        inside = rows[..., :, None] + columns[..., None, :] <= family.radius.square()[None, :, None, None]
        return inside & (centre[..., 0] >= 0)[..., None, None]

    @staticmethod
    def _paint(images: Tensor, visible: Tensor) -> Tensor:
        return torch.where(visible, images, -1.0)

    def _look(self, family: Family, images: Tensor, region: Tensor, visible: Tensor) -> Tensor:
        """What the family's networks see, ``[N, slots, 2, H, W]``: painted pixels and the region."""
        window = torch.stack([self._paint(images, visible), region.float()], dim=2)
        return window if family.judge.augment == "none" else augmented(window, family.judge.augment)

    @staticmethod
    def _flipped(images: Tensor, flip: Tensor) -> Tensor:
        return torch.where(flip[..., None, None], images.flip(-1), images)

    def _set_rate(self, number: int) -> None:
        steps = self.stack.steps
        rate = self.stack.learning_rate * min(1.0, (steps - number) / (steps / 3))
        for optimizer in (self.optimizer_G, self.optimizer_D):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]

    @torch.no_grad()
    def _move_averages(self, step: int, parameters: Sequence[Tensor]) -> None:
        for name, decay in DECAYS.items():
            torch._foreach_lerp_(self.averages[name], list(parameters), 1.0 - min(decay, step / (step + 9)))

    @torch.no_grad()
    def generated(self, average: str, batch: int = 4) -> dict[int, tuple[list[int], np.ndarray]]:
        """Of every slot: the slices that are scored, and what it makes of them, grey levels."""
        for parameter, value in zip(self.generators.parameters(), self.averages[average], strict=True):
            parameter.copy_(value)
        folds = [self._fold(seed) for _, seed in self.stack.runs]
        chosen = [self.data.of(fold.scored) for fold in folds]
        longest, n = max(map(len, chosen)), len(self.data.names)
        index = torch.zeros(longest, 2 * self.n_runs, dtype=torch.long)
        for run, slices in enumerate(chosen):
            padded = torch.tensor((slices + slices[:1] * longest)[:longest])
            index[:, run], index[:, self.n_runs + run] = padded, padded + n
        index = index.to(self.device)
        made = [self.translate(self.images[part]).add(1).mul(127.5).round().byte().cpu() for part in index.split(batch)]
        fakes = torch.cat(made).numpy()
        return {s: (chosen[s % self.n_runs], fakes[: len(chosen[s % self.n_runs]), s]) for s in range(2 * self.n_runs)}

    def _fold(self, seed: int) -> Any:
        return tuned_and_tested(self.data.patients) if self.stack.test else tuning_fold(self.data.patients, seed)


class PixelFamily:
    """Networks that name every pixel of the target domain."""

    def __init__(self, members: Sequence[tuple[int, Pixels]], stack: Stack, device: torch.device) -> None:
        n_runs = len(stack.runs)
        self.kind = members[0][1].kind
        self.inside_only = members[0][1].inside_only
        runs = [run for run, _ in members]
        self.slots = torch.tensor([*runs, *(n_runs + run for run in runs)], device=device)
        seeds = [stack.runs[run][1] + 9000 for run in runs]
        self.classes = 3 if self.kind == "classes" else 2
        seeds = [*seeds, *(seed + 500 for seed in seeds)]
        self.network = StackedUNet(seeds, self.classes, members[0][1].channels, 3).to(device)
        self.weight = torch.tensor([pixels.weight for _, pixels in members] * 2, device=device)

    def _entropy(self, images: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
        """Cross entropy, ``[slots]``."""
        logits = self.network(images).unflatten(1, (len(self.slots), self.classes)).movedim(2, 1)
        loss = F.cross_entropy(logits, wanted, reduction="none")
        return (loss * weights).sum(dim=(0, 2, 3)) / weights.sum(dim=(0, 2, 3)).clamp_min(1e-6)

    def _balanced(self, region: Tensor) -> Tensor:
        """Half of the weight for the tumours of the batch, half for the rest."""
        inside = region.float()
        share = inside.mean(dim=(0, 2, 3), keepdim=True)
        return inside * (LESION_SHARE / share.clamp_min(1e-6)) + (1 - inside) * ((1 - LESION_SHARE) / (1 - share))

    def generator_loss(self, fake: Tensor, region: Tensor, near: Tensor) -> Tensor:
        """How far the generated pixels are from passing for what they should be."""
        weights = self._balanced(region)
        return self._entropy(fake, region.long(), weights * near if self.inside_only else weights)

    def own_loss(self, fake: Tensor, real: Tensor, region: Tensor) -> Tensor:
        """How well pixels are named."""
        loss = self._entropy(real, region.long(), self._balanced(region))
        if self.kind == "classes":
            loss = loss + self._entropy(fake, torch.full_like(region, 2, dtype=torch.long), torch.ones_like(fake))
        return loss


def augmented(window: Tensor, how: str) -> Tensor:
    """Windows and their regions moved at random, each by itself; the outside stays painted."""
    n, slots = window.shape[:2]
    flat = window.flatten(0, 1)
    count, device = len(flat), window.device
    angle = torch.randint(4, (count,), device=device) * (math.pi / 2)
    mirror = torch.randint(2, (count,), device=device) * 2.0 - 1.0
    zoom, move = torch.ones(count, device=device), torch.zeros(count, 2, device=device)
    if how != "turn":
        angle = angle + (torch.rand(count, device=device) - 0.5) * (math.pi / 6)
        zoom = 1.0 + (torch.rand(count, device=device) - 0.5) * 0.3
        move = (torch.rand(count, 2, device=device) - 0.5) * 0.25
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack(
        [torch.stack([cosine * mirror, -sine, move[:, 0]], 1), torch.stack([sine * mirror, cosine, move[:, 1]], 1)], 1
    )
    pixels, region = flat[:, :1] + 1.0, flat[:, 1:]
    if how == "grey":
        gain = 1.0 + (torch.rand(count, 1, 1, 1, device=device) - 0.5) * 0.3
        shift = (torch.rand(count, 1, 1, 1, device=device) - 0.5) * 0.3
        pixels = torch.where(pixels > 0, pixels * gain + shift, pixels)
    grid = F.affine_grid(theta, [count, 2, *flat.shape[2:]], align_corners=False)
    moved = F.grid_sample(torch.cat([pixels, region], 1), grid, padding_mode="zeros", align_corners=False)
    return torch.cat([moved[:, :1] - 1.0, moved[:, 1:]], 1).unflatten(0, (n, slots))


def healthy_places(data: Gliomas, radius_px: float = 7.0) -> tuple[np.ndarray, np.ndarray]:
    """The body without the tumour, bool ``[slices, H, W]``, and centres of discs in it, ``[slices, discs, 2]``; -1 where
    a slice has no place for one."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    rest = np.zeros_like(data.masks)
    centres = np.full((len(data.masks), DISCS_A_SLICE, 2), -1, dtype=np.int64)
    for index, mask in enumerate(data.masks):
        body = (data.images["A"][index] > 12) | (data.images["B"][index] > 12)
        rest[index] = ndimage.binary_fill_holes(body) & ~mask
        free = rest[index].copy()
        if mask.any():
            free &= ndimage.distance_transform_edt(~mask) > radius_px + HEALTHY_GAP_PX
        places = np.argwhere(free)
        if len(places):
            centres[index] = places[rng.integers(len(places), size=DISCS_A_SLICE)]
    return rest, centres


def shuffled_within_patients(data: Gliomas, seed: int) -> np.ndarray:
    """For each slice another one, in one circle over all."""
    order = np.random.default_rng(seed).permutation(len(data.names))
    other = np.empty(len(order), dtype=np.int64)
    other[order] = np.roll(order, -1)
    return other


def train_stack(training: StackedTraining, report: Callable[[int], bool]) -> bool:
    """Train to the end; ``False`` where ``report`` said to stop."""
    for number in range(training.stack.steps):
        training.step(number)
        if number % 20 == 0 and not report(number):
            return False
    return True
