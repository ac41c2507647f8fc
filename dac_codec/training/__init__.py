"""How a model comes to be."""
