"""Trainers of other people around a plain script: PyTorch Lightning, accelerate, and a loop in Hugging Face's style.

Each is one example with the real library, run to the end; it is skipped where the library is not installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from roi_progressive import Config, GGDConfig, Session, attach
from roi_progressive.host import PatchGAN, ResnetGenerator


class _Slices(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(index)
        images = {domain: torch.rand(1, 32, 32, generator=chance) * 2 - 1 for domain in "AB"}
        mask = torch.zeros(1, 32, 32)
        mask[:, 8 : 18 + index, 10:20] = 1
        return {**images, "mask": mask}


def _networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return ResnetGenerator(1, 1, 4, 1), PatchGAN(1, 4, 2)


def _loader() -> DataLoader[Any]:
    return DataLoader(_Slices(), batch_size=2)


@pytest.fixture
def config(tumor_config: Callable[..., Config]) -> Config:
    return tumor_config(ggd=GGDConfig(hidden_channels=4))


def _losses(session: Session, generator: Any, judge: Any, batch: Any) -> tuple[Tensor, Callable[[], Tensor]]:
    """The generator's loss with ours in it, and the discriminator's, for the trainer to go back from."""
    fake = generator(batch["A"])
    regions = {"tumor": batch["mask"]}
    loss = (judge(fake) - 1).square().mean() + session.generator_loss(
        real_A=batch["A"], fake_B=fake, real_B=batch["B"], masks_A=regions, masks_B=regions, paired=True
    )
    return loss, lambda: judge(fake.detach()).square().mean() + (judge(batch["B"]) - 1).square().mean()


@pytest.fixture
def by_hand(config: Config) -> list[Tensor]:
    """The generator after two epochs of the same loop, written out."""
    generator, judge = _networks()
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (generator, judge)]
    with attach({"A2B": generator}, config=config, n_epochs=2) as session:
        for epoch in range(2):
            session.start_epoch(epoch)
            for batch in _loader():
                loss, of_judge = _losses(session, generator, judge, batch)
                optimizers[0].zero_grad()
                loss.backward()
                optimizers[0].step()
                optimizers[1].zero_grad()
                of_judge().backward()
                optimizers[1].step()
                session.discriminator_step()
        assert session.state_dict()["steps"] == 6
    return [parameter.detach().clone() for parameter in generator.parameters()]


def _same(generator: nn.Module, by_hand: list[Tensor]) -> None:
    for found, expected in zip(generator.parameters(), by_hand, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)


def test_lightning_with_manual_optimization(config: Config, by_hand: list[Tensor], tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="PyTorch Lightning is not installed")

    class Translator(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.judge = _networks()
            self.session: Any = None

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (self.generator, self.judge)]

        def on_train_start(self) -> None:  # the optimizers exist, and the networks are on their device
            self.session = attach({"A2B": self.generator}, config=config, n_epochs=self.trainer.max_epochs)

        def on_train_epoch_start(self) -> None:
            self.session.start_epoch(self.current_epoch)

        def training_step(self, batch: Any, index: int) -> None:
            optimizer, of_judge_optimizer = self.optimizers()
            loss, of_judge = _losses(self.session, self.generator, self.judge, batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            of_judge_optimizer.zero_grad()
            self.manual_backward(of_judge())
            of_judge_optimizer.step()
            self.session.discriminator_step()

        def on_train_end(self) -> None:
            assert self.session.state_dict()["steps"] == 6
            self.session.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Translator()
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(model, _loader())
    _same(model.generator, by_hand)


@pytest.mark.parametrize("n_micro_batches", [1, 3])
def test_accelerate_also_with_accumulation(config: Config, by_hand: list[Tensor], n_micro_batches: int) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    generator, judge = _networks()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=n_micro_batches)
    raw = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (generator, judge)]
    generator, judge, optimizer, of_judge_optimizer, loader = accelerator.prepare(generator, judge, *raw, _loader())
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with attach({"A2B": generator}, config=config, n_epochs=2) as session:
            for epoch in range(2):
                session.start_epoch(epoch)
                for batch in loader:
                    with accelerator.accumulate(generator, judge):
                        loss, of_judge = _losses(session, generator, judge, batch)
                        optimizer.zero_grad()
                        accelerator.backward(loss)
                        optimizer.step()
                        of_judge_optimizer.zero_grad()
                        accelerator.backward(of_judge())
                        of_judge_optimizer.step()
                    if accelerator.sync_gradients:
                        session.discriminator_step()
            assert session.state_dict()["steps"] == 6 // n_micro_batches
            assert {"G_tumor_A2B", "D_tumor_A2B", "ggd_A2B"} == set(session.losses())
    if n_micro_batches == 1:
        _same(accelerator.unwrap_model(generator), by_hand)


class _Trainer:
    """A loop in Hugging Face's style: one method makes the loss, another trains, a third is for callbacks."""

    def __init__(self, session: Session, generator: nn.Module, judge: nn.Module, n_micro_batches: int) -> None:
        self.session, self.generator, self.judge, self.n = session, generator, judge, n_micro_batches
        self.optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (generator, judge)]

    def compute_loss(self, batch: Any) -> tuple[Tensor, Callable[[], Tensor]]:
        return _losses(self.session, self.generator, self.judge, batch)

    def training_step(self, batch: Any) -> Tensor:
        loss, of_judge = self.compute_loss(batch)
        (loss / self.n).backward()
        # What the generator's loss left on the judge is not its own.
        self.optimizers[1].zero_grad()
        (of_judge() / self.n).backward()
        return loss.detach()

    def train(self, n_epochs: int) -> None:
        for epoch in range(n_epochs):
            self.session.start_epoch(epoch)
            for place, batch in enumerate(_loader()):
                self.training_step(batch)
                if (place + 1) % self.n == 0:
                    for optimizer in self.optimizers:
                        optimizer.step()
                        optimizer.zero_grad()
                    self.session.discriminator_step()


@pytest.mark.parametrize("n_micro_batches", [1, 3])
def test_a_loop_of_hugging_faces_style(config: Config, by_hand: list[Tensor], n_micro_batches: int) -> None:
    generator, judge = _networks()
    keep = torch.optim.Adam(generator.parameters(), lr=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with attach({"A2B": generator}, config=config, n_epochs=2) as session:
            _Trainer(session, generator, judge, n_micro_batches).train(2)
            assert session.state_dict()["steps"] == 6 // n_micro_batches
            losses = session.losses()
    assert {"G_tumor_A2B", "D_tumor_A2B", "ggd_A2B"} == set(losses) and keep


# --- a script that counts iterations, as UGATIT's does ----------------------------------------------------------------


class _Attending(nn.Module):
    """Gives what UGATIT's generators do: an image, the logits of its attention, and a map of it."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.attention = ResnetGenerator(1, 1, 4, 1), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heat = self.attention(x)
        return self.image(x), heat.mean((2, 3)), heat


N_ITERATIONS, PER_EPOCH = 12, 3


def _iterations(first: int, out: Path | None, config: Config, *, stop: int = N_ITERATIONS) -> tuple[Any, Any, Any]:
    """The script, from one iteration to another: discriminators first, then the generators are called anew."""
    torch.manual_seed(0)
    there, back, judge_a, judge_b = _Attending(), _Attending(), PatchGAN(1, 4, 2), PatchGAN(1, 4, 2)
    optim_g = torch.optim.Adam([*there.parameters(), *back.parameters()], lr=1e-3, betas=(0.5, 0.999))
    optim_d = torch.optim.Adam([*judge_a.parameters(), *judge_b.parameters()], lr=1e-3, betas=(0.5, 0.999))
    batches = list(_loader())
    stages = []
    with attach({"A2B": there, "B2A": back}, config=config, n_epochs=N_ITERATIONS // PER_EPOCH) as session:
        if first and out is not None:
            saved = torch.load(out / "script.pt", weights_only=True)
            there.load_state_dict(saved["there"])
            back.load_state_dict(saved["back"])
            session.load_state_dict(saved["ours"])
        for iteration in range(first, stop):
            if iteration % PER_EPOCH == 0:
                stages.append(session.start_epoch(iteration // PER_EPOCH).number)
            batch = batches[iteration % len(batches)]
            real_a, real_b = batch["A"], batch["B"]
            optim_d.zero_grad()
            with torch.no_grad():
                fake_b, fake_a = there(real_a)[0], back(real_b)[0]
            judged = [(judge_b, fake_b, real_b), (judge_a, fake_a, real_a)]
            sum(
                judge(fake).square().mean() + (judge(real) - 1).square().mean() for judge, fake, real in judged
            ).backward()
            optim_d.step()
            optim_g.zero_grad()
            (fake_b, logit_b, _), (fake_a, logit_a, _) = there(real_a), back(real_b)
            (rec_a, _, _), (rec_b, _, _) = back(fake_b), there(fake_a)
            loss = (judge_b(fake_b) - 1).square().mean() + (judge_a(fake_a) - 1).square().mean()
            loss = loss + 10 * ((rec_a - real_a).abs().mean() + (rec_b - real_b).abs().mean())
            loss = loss + (logit_a.square() + logit_b.square()).mean()
            regions = {"tumor": batch["mask"]}
            loss = loss + session.generator_loss(
                **{"real_A": real_a, "fake_B": fake_b, "rec_A": rec_a, "masks_A": regions},
                **{"real_B": real_b, "fake_A": fake_a, "rec_B": rec_b, "masks_B": regions},
            )
            loss.backward()
            optim_g.step()
            session.discriminator_step()
        if out is not None and stop < N_ITERATIONS:
            states = {"there": there.state_dict(), "back": back.state_dict(), "ours": session.state_dict()}
            torch.save(states, out / "script.pt")
        return stages, session.state_dict(), session.losses()


def test_a_script_that_counts_iterations_says_how_many_make_an_epoch(tmp_path: Path, config: Config) -> None:
    """All stages come, every iteration is guided, and it goes on from an iteration on with what is ours."""
    both = {f"{term}_{direction}" for term in ("G_tumor", "D_tumor", "ggd") for direction in ("A2B", "B2A")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stages, state, losses = _iterations(0, None, config)
        assert (len(stages), state["steps"], set(losses)) == (N_ITERATIONS // PER_EPOCH, N_ITERATIONS, both)
        first, _, _ = _iterations(0, tmp_path, config, stop=6)
        later, continued, _ = _iterations(6, tmp_path, config)
    assert first + later == stages
    assert (continued["steps"], continued["stages"]["epoch"]) == (N_ITERATIONS, state["stages"]["epoch"])
