"""The viewer: one HTML file that shows what each pass did, without a server or network."""

from .page import render_page

__all__ = ["render_page"]
