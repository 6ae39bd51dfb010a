"""The search for approximations that the user's metric allows."""

from .driver import Request, drive, make_request, searched_passes
from .metric import Metric
from .metrics import MetricFunction
from .result import Decision, Point, SearchResult
from .search_settings import SearchSettings

__all__ = [
    "Decision",
    "Metric",
    "MetricFunction",
    "Point",
    "Request",
    "SearchResult",
    "SearchSettings",
    "drive",
    "make_request",
    "searched_passes",
]
