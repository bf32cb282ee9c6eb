"""For people's own parts and their tests: checks of adapters and discriminators, a toy host, batches of the phantom."""

from .adapter_checks import check_adapter, default_step
from .batches import phantom_batch, phantom_config
from .discriminator_checks import check_discriminator
from .toy_host import ToyHost

__all__ = ["ToyHost", "check_adapter", "check_discriminator", "default_step", "phantom_batch", "phantom_config"]
