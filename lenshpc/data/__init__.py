"""How rows of a store reach the GPU."""
