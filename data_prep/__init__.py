"""Datasets: from which data, one YAML file a dataset."""
