"""Preparation: folders of images become one store; imports neither torch nor submitit."""
