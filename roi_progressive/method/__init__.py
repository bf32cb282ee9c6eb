"""The paper's method: regions, discriminators, uncertainty, generator and stages."""
