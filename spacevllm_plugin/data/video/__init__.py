"""Video reading: what a video holds (`probe`) and the pictures of chosen native frames (`read`)."""

from .images import frame_files
from .index import identity
from .index_store import IndexFolder, Shelf
from .picture import image_size, read_image
from .reader import content_key, probe, read, require
from .source import BackendError, Frames, MediaError, VideoInfo, VideoRef


__all__ = [
    "BackendError",
    "Frames",
    "IndexFolder",
    "MediaError",
    "Shelf",
    "VideoInfo",
    "VideoRef",
    "content_key",
    "frame_files",
    "identity",
    "image_size",
    "probe",
    "read",
    "read_image",
    "require",
]
