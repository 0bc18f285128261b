"""Lens finding and any other classification."""
