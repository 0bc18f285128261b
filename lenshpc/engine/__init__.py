"""Training: one loop for all tasks, on one process or many."""
