"""lenshpc: batch jobs on GPU clusters for deep learning on gravitational lenses."""

__version__ = "0.2.0"
