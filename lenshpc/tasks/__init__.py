"""The tasks: what is learnt, apart from how training runs."""
