"""Benchmarks: the comparison that ``make bench`` runs, and programs that measure one thing each.

``compare`` measures the rows of goals in ``storage``, ``ingest``, ``search`` and ``processes`` and writes the results with
``report``. The other programs are ``filters``, ``footprint``, ``ingest_memory``, ``llama_insert``, ``manuals``, ``mixtures``,
``moving``, ``questions``, ``recovery`` and ``transfer``. All need a machine that does nothing else.
"""
