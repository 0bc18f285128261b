"""Plan → scheduler: submission, states and the local queue."""
