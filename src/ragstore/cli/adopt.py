"""``ragstore adopt``: copy the stores of other systems into a collection."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, FilterKeyOption, JsonOption, QuietOption
from ragstore.cli.progress import shown_line
from ragstore.cli.transfers import FromOption, ModelOption, in_words, tell_report


def adopt(  # noqa: PLR0913, PLR0917 - \b keeps lines apart; one argument per option
    ctx: typer.Context,
    source: FromOption = None,
    table: Annotated[
        str | None,
        typer.Option("--postgres-table", metavar="TABLE", help="In place of --from: table of a PGVectorStore."),
    ] = None,
    collection: CollectionOption = None,
    docstore: Annotated[
        str | None,
        typer.Option("--docstore", metavar="URL", help="Document store beside it: hashes, texts and further nodes."),
    ] = None,
    index_store: Annotated[
        str | None,
        typer.Option("--index-store", metavar="URL", help="Index store, if it is not in the document store's place."),
    ] = None,
    text_key: Annotated[
        str | None,
        typer.Option("--text-key", metavar="KEY", help="Key of the text in entries that LlamaIndex did not write."),
    ] = None,
    document_key: Annotated[
        str | None,
        typer.Option("--document-key", metavar="KEY", help="Key of the document's id in such entries."),
    ] = None,
    schema: Annotated[str, typer.Option("--schema", metavar="NAME", help="Schema of the table.")] = "public",
    postgres_url: Annotated[
        str | None,
        typer.Option("--postgres-url", metavar="URL", help="Server of the table; ragstore's own where none is named."),
    ] = None,
    mongo_database: Annotated[
        str | None,
        typer.Option("--mongo-database", metavar="NAME", help="Database of a MongoDocumentStore beside the table."),
    ] = None,
    mongo_url: Annotated[
        str | None,
        typer.Option("--mongo-url", metavar="URL", help="Its server; ragstore's own where none is named."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", metavar="NAME", help="Namespace of the document store.")
    ] = None,
    model: ModelOption = None,
    filter_keys: FilterKeyOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, and write nothing.")] = False,
    _as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring a vector store of another system, and LlamaIndex's document store beside it, into a collection.

    --from is one of these; "#…" may be left out where there is only one:

    \b
    chroma:PATH#collection     chroma+http://host:port?tenant=…&database=…#collection
    qdrant:PATH#collection     qdrant+https://host:port?vector=NAME#collection
    milvus:FILE#collection     milvus+http://host:port?database=…&vector=FIELD#collection
    faiss:PERSIST_DIR#index    pinecone:INDEX#namespace
    postgresql://host/database#schema.table       a PGVectorStore

    --docstore and --index-store are one of redis://…, mongodb://host/database, firestore:PROJECT/DATABASE,
    dynamodb:TABLE, postgresql://host/database?table=…, or a folder, with #namespace behind it.

    Keys and passwords are read from RAGSTORE_FROM_SECRET and RAGSTORE_DOCSTORE_SECRET, or from secret files.

    They are only read, each once; what cannot fit is said before anything is written. Vectors are taken over, nothing
    is embedded; a node that is there several times is taken once. What exists already, and is equal, is skipped: safe
    to interrupt and to repeat. Exit status 3: something could not come over, and is listed.

    --json: {"documents", "nodes", "embedded", "skipped", "seconds", "left_behind", "noted", "collection_made"};
    left_behind and noted are {kind: {"count", "examples"}}, collection_made is null or {"name", "model", "dim"}.
    """  # noqa: D301 - a backspace keeps lines apart
    from ragstore.app.transfer import PlainStack

    if (source is None) == (table is None):
        raise typer.BadParameter("name the vector store with --from, or a table with --postgres-table")
    if source is None and (docstore or index_store or text_key or document_key):
        raise typer.BadParameter("--docstore, --index-store, --text-key and --document-key go with --from")
    with invocation_of(ctx).store() as store, shown_line(in_words, quiet=quiet) as listener:
        report = store.adopt(
            source or PlainStack(table or "", schema, postgres_url, mongo_url, mongo_database, namespace or "docstore"),
            collection=collection,
            docstore=docstore,
            index_store=index_store,
            text_key=text_key,
            document_key=document_key,
            namespace=namespace,
            model=model,
            filter_keys=filter_keys or (),
            dry_run=dry_run,
            progress=listener,
        )
    tell_report(ctx, report, "would be adopted" if dry_run else "adopted", dry_run=dry_run)
