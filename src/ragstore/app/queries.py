"""Queries to collections in one round trip, with each collection's own model, and answers from a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ragstore.app.models import EXTERNAL, Models
from ragstore.errors import UsageError
from ragstore.model.collection import Collection
from ragstore.model.hit import Hits, ScoreKind
from ragstore.postgres.pool import PostgresPool
from ragstore.query.answer import Answer, Tell, ask
from ragstore.query.caches import AskedQuestions, CollectionCache
from ragstore.query.no_hits import Advice
from ragstore.query.search import Question, find, to_hit
from ragstore.settings import Settings

_SCORES: Mapping[str, ScoreKind] = {
    "vector": "cosine",
    "keyword": "word_rank",
    "hybrid": "rank_fusion",
    "mmr": "mmr",
}


class Queries:
    """Finds the hits of a question in one round trip; safe to use from several threads."""

    def __init__(self, pool: PostgresPool, models: Models) -> None:
        self._pool = pool
        self._models = models
        self._collections = CollectionCache(pool)
        self._asked = AskedQuestions(pool)
        self._advice = Advice(pool)

    def hits(self, collection: str, question: Question) -> Hits:
        """The nodes that answer best, best first.

        Args:
            question: has a vector only if the caller gives one; otherwise the collection's model makes it.

        Raises:
            CollectionNotFoundError, FilterError, EmbeddingSpaceError, UsageError
        """
        return self._collections.ask(collection, partial(self._hits, question))

    def _hits(self, question: Question, collection: Collection) -> Hits:
        self._models.check(collection)
        embedded = self._with_vector(question, collection)
        found = find(self._pool, collection, embedded)
        self._collections.learn(found.collection)
        self._asked.note(found.collection, embedded.vector)
        filters = question.filters
        notes = self._advice.notes(found.collection, filters) if filters is not None and not found.rows else []
        return Hits(
            map(to_hit, found.rows), _SCORES["mmr" if question.mmr_lambda is not None else question.mode], notes
        )

    def _with_vector(self, question: Question, collection: Collection) -> Question:
        if question.mode == "keyword" and question.mmr_lambda is None:
            return replace(question, vector=None)
        if question.vector is not None:
            return question
        if collection.space.model == EXTERNAL:
            raise UsageError(
                f"the vectors of collection {collection.name!r} come from outside, so the question's must too",
                hint="ask with --mode keyword, or from Python with the question's vector",
                in_python="give embedding=, or mode='keyword'",
            )
        return replace(question, vector=self._models.of(collection).embed_query(question.text or ""))


def answered(settings: Settings, text: str, hits: Hits, stream: Tell | None) -> Answer:
    """The answer of the configured language model from these hits; without a model, the hits alone.

    Raises:
        ModelError: it gave no answer.
    """
    llm = None
    if settings.llm is not None:
        from ragstore.query.llm import LlmOptions, load_llm

        key = settings.llm_api_key
        options = LlmOptions(
            base_url=settings.llm_base_url,
            api_key=key.get_secret_value() if key else None,
            timeout_s=settings.llm_timeout_s,
        )
        llm = load_llm(settings.llm, options)
    return replace(ask(text, hits, llm, tell=stream), score_kind=hits.score_kind, notes=hits.notes)
