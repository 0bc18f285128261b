"""lenshpc: batch jobs on GPU clusters for deep learning on gravitational lenses."""

__version__ = "0.1.0"
