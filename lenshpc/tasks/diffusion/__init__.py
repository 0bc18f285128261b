"""New images drawn from noise, and how near they come to real ones."""
