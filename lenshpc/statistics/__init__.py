"""Numbers in, numbers out: metrics, intervals, paired tests, ensembles, distances."""
