"""JSON schemas of the YAML files that users edit; they ship in the wheel as `lenshpc.schemas`."""
