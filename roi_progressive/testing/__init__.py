"""For people's own parts and their tests: checks of adapters and discriminators, a toy host, batches of the phantom."""

from .adapter_checks import check_adapter, default_step
from .discriminator_checks import check_discriminator

__all__ = ["check_adapter", "check_discriminator", "default_step"]
