"""An HTTP server that follows OpenAI's speech endpoint. `create_app` makes the application, `barklite serve`
runs it.

May import the door and all below it; nothing below imports this room. It needs the extra `barklite[serve]`.
"""

from importlib import import_module

__all__ = ["Settings", "create_app"]
_HOMES = {"Settings": "gate", "create_app": "app"}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
