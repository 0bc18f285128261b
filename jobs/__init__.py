"""Recipes: what to run, one YAML file a job."""
