"""The one folder that knows the zarr layout: drafted shard by shard, opened only when whole."""

from lenshpc.store.draft import Draft, WrittenChunk, begin, open_draft, refuse_existing
from lenshpc.store.layout import (
    SPLITS,
    Pixels,
    StoreSpec,
    channel_statistics,
    pixel_moments,
    pixel_scale,
)
from lenshpc.store.read import Store, open_store

__all__ = [
    "SPLITS",
    "Draft",
    "Pixels",
    "Store",
    "StoreSpec",
    "WrittenChunk",
    "begin",
    "channel_statistics",
    "open_draft",
    "open_store",
    "pixel_moments",
    "pixel_scale",
    "refuse_existing",
]
