"""CycleGAN in the junyanz dialect: its own codebase, forks of it (DCLGAN and cGAN too), and the bundled host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from roi_progressive import Adapter, Config, DomainMasks, GuidedSession, Translation, hookimpl

from .dialect import MODEL, DialectAdapter, lacking

NEEDED = (*MODEL, "netG_A", "netG_B")


@hookimpl
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Understands model objects that have what a junyanz CycleGAN has."""
    return None if lacking(host, NEEDED) else CycleGANAdapter(host, config)


@hookimpl
def roi_host_lacks(host: Any) -> dict[str, list[str]]:
    """What a junyanz CycleGAN has and this host has not."""
    return {CycleGANAdapter.name: lacking(host, NEEDED)}


class CycleGANAdapter(DialectAdapter):
    """Two generators that translate both ways and back."""

    name = "junyanz cycle_gan"
    directions = ("A2B", "B2A")
    pools = ("fake_A_pool", "fake_B_pool")

    def __init__(self, model: Any, config: Config) -> None:
        super().__init__(model, config)
        self._late: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def generators(self) -> Mapping[str, nn.Module]:
        return {"A2B": self.model.netG_A, "B2A": self.model.netG_B}

    def sources(self) -> Mapping[str, Tensor]:
        return {"A2B": self.model.real_A, "B2A": self.model.real_B}

    def images_are_made(self) -> bool:
        return all(self.made(name) is not None or self._late.get(name) is not None for name in ("fake_A", "fake_B"))

    def _await_images(self, session: GuidedSession) -> None:
        """Note what the generators are called with and give, until both images and both ways back are there."""
        late: dict[str, Tensor] = {}
        handles: list[Any] = []

        def calls(direction: str) -> Any:
            source, fake, fake_back, back = (
                ("real_A", "fake_B", "fake_A", "rec_B")
                if direction == "A2B"
                else ("real_B", "fake_A", "fake_B", "rec_A")
            )

            def called(module: nn.Module, inputs: Any, output: Any) -> None:
                if inputs[0] is vars(self.model).get(source):
                    late[fake] = output
                elif inputs[0] is late.get(fake_back):
                    late[back] = output
                if len(late) == 4:
                    for handle in handles:
                        handle.remove()
                    self._late = late
                    session.translated()
                    self._late = {}

            return called

        for direction, network in self.generators().items():
            handles.append(network.register_forward_hook(calls(direction)))
        self._handles = handles

    def _step_is_over(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _image(self, name: str) -> Tensor | None:
        return self._late.get(name, self.made(name))

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        model = self.model
        a, b = self.masks_of_model(masks)
        return (
            Translation(
                "A2B",
                source=model.real_A,
                fake=self._late.get("fake_B", vars(model).get("fake_B")),
                real=model.real_B,
                reconstruction=self._image("rec_A"),
                identity=self.made("idt_A"),
                masks=a,
                real_masks=b,
            ),
            Translation(
                "B2A",
                source=model.real_B,
                fake=self._late.get("fake_A", vars(model).get("fake_A")),
                real=model.real_A,
                reconstruction=self._image("rec_B"),
                identity=self.made("idt_B"),
                masks=b,
                real_masks=a,
            ),
        )
