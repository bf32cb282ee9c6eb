"""An example plugin of roi-progressive."""
