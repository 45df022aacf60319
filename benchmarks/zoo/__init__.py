"""How many architectures of the zoo each side prunes correctly."""
