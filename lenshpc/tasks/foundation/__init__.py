"""Pre-training of an encoder by a masked autoencoder."""
