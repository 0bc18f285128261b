"""What each task does, as settings: the recipe's `method`."""
