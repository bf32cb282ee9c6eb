"""How good the generated images are: in the region, in the whole image, by contrast phase and direction."""
