"""Images enlarged, learnt from pairs."""
