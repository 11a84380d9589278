"""What a file can hold, generously: a number beyond it is a mistake, and would fill the memory or overflow."""

MOST_FRAMES = 24 * 60 * 60 * 240  # a day at 240 frames a second
LEAST_FPS, MOST_FPS = 1e-5, 1e6  # less than a frame a day; the fastest cameras
MOST_SECONDS = MOST_FRAMES / LEAST_FPS
MOST_SIDE = 1_000_000  # pixels
MOST_SHIFT = 1000  # frames: published loaders are off by one or two
