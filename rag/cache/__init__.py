"""Whole answers, kept and shared: a replay costs neither a search nor a model call."""

from rag.cache.cached import AnswerCache, Keep
from rag.cache.flight import Ask, Flights, LocalFlights
from rag.cache.kept import InMemory, InRedis, KeptAnswers
from rag.cache.keys import answer_key, normalised
from rag.cache.shared_flight import RedisFlights

__all__ = [
    "AnswerCache",
    "Ask",
    "Flights",
    "InMemory",
    "InRedis",
    "Keep",
    "KeptAnswers",
    "LocalFlights",
    "RedisFlights",
    "answer_key",
    "normalised",
]
