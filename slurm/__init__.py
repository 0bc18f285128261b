"""Site profiles: where to run, one YAML file a cluster; and a cluster on one machine."""
