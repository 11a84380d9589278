"""Video reading: what a video holds (`probe`) and the pictures of chosen native frames (`read`)."""

from .backends import BackendError
from .images import frame_files
from .index import identity
from .reader import content_key, probe, read
from .source import Frames, MediaError, VideoInfo, VideoRef


__all__ = [
    "BackendError",
    "Frames",
    "MediaError",
    "VideoInfo",
    "VideoRef",
    "content_key",
    "frame_files",
    "identity",
    "probe",
    "read",
]
