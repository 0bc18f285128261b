"""A classification whose features must also give the lens that drew the image."""
