"""SpaceVLLM, spatio-temporal video grounding, as a plugin for LLaMA-Factory."""

__version__ = "0.1.0"


def register() -> None:
    """Hook the plugin into LLaMA-Factory in this process. Calling it again does nothing.

    `pip install` already does this in every Python process of the environment (see `bootstrap`); call it by hand
    only where `.pth` files are not read, for instance in a zipped or frozen application.
    """
    from . import bootstrap

    bootstrap.install()
