"""Declaration of every option of ragstore: its type, default, range and help."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ragstore.model.collection import NAME_PATTERN
from ragstore.settings.places import Origin, Place, is_encoded, read_places, takes_password, without_driver
from ragstore.settings.refusal import refuse_unknown_names, refuse_values


def _one_of_schemes(*schemes: str) -> AfterValidator:
    def check(value: SecretStr | str) -> SecretStr | str:
        url = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError("must start with " + " or ".join(f"{scheme}://" for scheme in schemes))
        if isinstance(value, SecretStr) and not is_encoded(url):
            raise ValueError("must have @ / ? # and % in its user and password percent-encoded, @ as %40")
        return value

    return AfterValidator(check)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _without_driver(value: object) -> object:
    """Remove the driver that SQLAlchemy's URLs name; ragstore always uses psycopg2."""
    if isinstance(value, SecretStr):
        return SecretStr(without_driver(value.get_secret_value()))
    return without_driver(value) if isinstance(value, str) else value


def _text_encoding(value: str) -> str:
    try:
        "".encode(value or "utf-8")
    except LookupError:
        raise ValueError("must be the name of an encoding of text, e.g. windows-1252 or shift_jis") from None
    return value


def split_list(value: str) -> list[str]:
    """Entries of an option that is a list, separated by commas or white space."""
    return value.replace(",", " ").split()


def _joined(value: object) -> object:
    """A list of ``ragstore.toml`` in the form that variables have."""
    return ",".join(value) if isinstance(value, list) and all(isinstance(entry, str) for entry in value) else value


def _text_suffixes(value: str) -> str:
    for name in split_list(value):
        if "/" in name or name == "." or any(mark in name for mark in "*?["):
            raise ValueError("must be suffixes and whole names, separated by commas, e.g. .dat,.cue,Brewfile")
    return value


def _as_pairs(value: object) -> object:
    """A table of ``ragstore.toml``, or JSON, in the form that variables have."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        return ",".join(f"{suffix}={name}" for suffix, name in value.items())
    return value


def _readers(value: str) -> str:
    for pair in split_list(value):
        if not re.fullmatch(r"\.[^=/\s]+=[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", pair):
            raise ValueError("must be pairs of a suffix and a class, separated by commas, e.g. .dwg=package.Class")
    return value


HttpUrl = Annotated[str, _one_of_schemes("http", "https")]


class Settings(BaseModel):
    """All options, from the call, then the environment, ``.env``, ``ragstore.toml``, secret files, defaults.

    Raises:
        SettingsError: a value cannot be used, or a name is unknown.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,  # the text of an error must not contain a secret
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    env: Literal["", "test"] = Field("", description="test arms the failpoints that kill the process on purpose")
    home: Path | None = Field(
        None, description="folder of the embedded servers and their data; unset: a folder of the user who runs ragstore"
    )

    postgres_url: (
        Annotated[SecretStr, _one_of_schemes("postgresql", "postgres"), BeforeValidator(_without_driver)] | None
    ) = Field(
        None, description="PostgreSQL with pgvector, postgresql://user:password@host:5432/database; unset: embedded"
    )
    mongo_url: Annotated[SecretStr, _one_of_schemes("mongodb", "mongodb+srv")] | None = Field(
        None, description="MongoDB replica set, mongodb://user:password@host:27017/?replicaSet=rs0; unset: embedded"
    )
    postgres_password: SecretStr | None = Field(
        None, description="password of the user in postgres_url, for a URL without one; best as a secret file"
    )
    mongo_password: SecretStr | None = Field(
        None, description="password of the user in mongo_url, for a URL without one; best as a secret file"
    )
    postgres_schema: str = Field(
        "ragstore",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="schema in PostgreSQL that holds everything; deployments in one database have one each",
    )
    mongo_database: str = Field(
        "ragstore", pattern=r"^[A-Za-z0-9_-]{1,63}$", description="database in MongoDB that holds the nodes"
    )

    collection: str = Field(
        "default", pattern=f"^{NAME_PATTERN.pattern}$", description="collection that is used when none is named"
    )
    chunk_size: int = Field(256, ge=32, le=8192, description="tokens in a chunk, for collections made from now on")
    chunk_overlap: int = Field(32, ge=0, le=8191, description="tokens that neighbouring chunks share; below chunk_size")
    text_search_config: str = Field(
        "english",
        pattern=r"^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$",
        description="PostgreSQL text search configuration of keyword search, name or schema.name, for collections made "
        "from now on",
    )

    vector_type: Literal["vector", "halfvec"] = Field(
        "vector",
        description="how vectors of collections made from now on are stored: vector, of float32, or halfvec, of "
        "float16 in half the room",
    )

    model: str = Field(
        "wordllama",
        min_length=1,
        description="embedding model of collections made from now on: wordllama, minilm, openai:MODEL, "
        "ollama:MODEL, tei:URL, huggingface:MODEL, or external: vectors come with the nodes",
    )
    model_base_url: HttpUrl | None = Field(None, description="address of the server of a remote embedding model")
    from_secret: SecretStr | None = Field(
        None,
        description="key, token or password of the vector store that adopt and compare read; best as a secret file",
    )
    docstore_secret: SecretStr | None = Field(
        None,
        description="password of the document store that adopt reads, for a URL without one; best as a secret file",
    )
    model_api_key: SecretStr | None = Field(None, description="key of a remote embedding model")
    model_batch_size: int = Field(64, ge=1, le=2048, description="chunks sent to the embedding model at once")
    model_requests_per_minute: int | None = Field(
        None, ge=1, le=1_000_000, description="most requests a minute to a remote embedding model; unset: no limit"
    )
    model_timeout_s: float = Field(60, ge=1, le=3600, description="seconds until a request to the model is given up")
    model_max_retries: int = Field(5, ge=0, le=20, description="tries after the first that failed for a passing cause")

    llm: str | None = Field(
        None, pattern=r"^openai:.+$", description="model that writes the answers of ask, openai:MODEL; unset: none"
    )
    llm_base_url: HttpUrl | None = Field(None, description="address of an OpenAI-compatible server of that model")
    llm_api_key: SecretStr | None = Field(None, description="key of that model")
    llm_timeout_s: float = Field(120, ge=1, le=3600, description="seconds until a request to that model is given up")

    top_k: int = Field(10, ge=1, le=1000, description="hits of a query that does not say how many")
    dense_weight: float | None = Field(
        None,
        ge=0,
        le=100,
        description="weight of vectors against keywords (1) in hybrid search; unset: what suits the model",
    )

    batch_chunks: int = Field(1000, ge=1, le=20_000, description="chunks published together in one run")
    lease_ttl_s: float = Field(30, ge=5, le=3600, description="seconds a run may go without a sign of life")
    grace_s: float = Field(
        60, ge=0, le=86_400, description="seconds that replaced nodes stay in MongoDB for readers under way"
    )
    parse_timeout_s: float = Field(120, ge=1, le=86_400, description="seconds that reading one document may take")
    parse_memory_mb: int = Field(1024, ge=128, le=1_048_576, description="memory that reading one document may take")
    parse_processes: int = Field(2, ge=1, le=64, description="documents that are read at the same time, at most")
    ingest_memory_mb: int = Field(
        256, ge=8, le=1_048_576, description="memory of the documents that an ingest has read and not yet stored, about"
    )
    text_encoding: Annotated[str, AfterValidator(_text_encoding)] = Field(
        "", description="encoding of texts that neither declare one nor are UTF-8; unset: detected"
    )
    table_header: Literal["auto", "first", "none"] = Field(
        "auto",
        description="whether the first row of a CSV or TSV names its columns: auto detects it, first and none say so",
    )
    text_suffixes: Annotated[str, BeforeValidator(_joined), AfterValidator(_text_suffixes)] = Field(
        "", description="further suffixes and names of files that are read as text, separated by commas: .dat,Brewfile"
    )
    readers: Annotated[str, BeforeValidator(_as_pairs), AfterValidator(_readers)] = Field(
        "",
        description="readers of your choice by suffix, classes with load_data(file=Path), as LlamaIndex has them: "
        ".dwg=package.Class,.step=package.Other; in ragstore.toml a table",
    )
    max_file_mb: int = Field(64, ge=1, le=16_384, description="largest document that is read")
    follow_links: bool = Field(
        False, description="read also files outside of the named folders that symbolic links in them lead to"
    )
    checksum: bool = Field(False, description="read and hash each file at each ingest, whatever its size and times say")
    strict: bool = Field(
        False, description="quarantine a document if text of it may be missing or wrong, instead of storing it"
    )
    index_min_nodes: int = Field(
        2_000, ge=1, le=1_000_000_000, description="nodes in no segment of the vector index from which one is made"
    )
    index_memory_mb: int = Field(
        0,
        ge=0,
        le=1_048_576,
        description="memory of a build of the vector index, which bounds its segments; 0: an eighth of the machine's",
    )

    pool_size: int = Field(8, ge=1, le=200, description="most connections to each database from one process")
    connect_timeout_s: float = Field(5, ge=1, le=300, description="seconds until a connection attempt is given up")
    statement_timeout_s: float = Field(
        0, ge=0, le=86_400, description="seconds until PostgreSQL gives up a statement; 0: never"
    )

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "warning", description="least important log lines that are shown; debug also shows tracebacks"
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = Field(
        "text", description="log lines for people or for machines, on standard error"
    )

    _places: list[Place] = PrivateAttr(default_factory=list)

    def __init__(self, **call: Any) -> None:
        fields = type(self).model_fields
        places = read_places(fields, call)
        refuse_unknown_names(places, fields)
        values: dict[str, Any] = {}
        for place in reversed(places):
            values |= {name: value for name, value in place.values.items() if name in fields}
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise refuse_values(error, places, fields) from error
        self._places = places

    def origin(self, option: str) -> Origin:
        """The kind of place that an option's value comes from."""
        return next((place.origin for place in self._places if option in place.values), "default")

    @property
    def places(self) -> list[Path]:
        """The files and the folder that options were read from; they may contain passwords."""
        files = (place for place in self._places if place.origin not in {"call", "environment"} and not place.note)
        return [Path(place.where) for place in files]

    @property
    def embedded(self) -> bool:
        """Whether ragstore runs the databases itself."""
        return self.postgres_url is None

    @field_validator("home")
    @classmethod
    def _home_is_absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else None

    @field_validator("chunk_overlap")
    @classmethod
    def _overlap_is_below_size(cls, value: int, info: ValidationInfo) -> int:
        size: int | None = info.data.get("chunk_size")  # absent if it is wrong itself
        if size is not None and value >= size:
            raise ValueError(f"must be smaller than chunk_size, which is {size}")
        return value

    @field_validator("postgres_password", "mongo_password")
    @classmethod
    def _password_belongs_to_a_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        name = str(info.field_name).replace("password", "url")
        url: SecretStr | None = info.data.get(name)  # absent if it is wrong itself
        if value is not None and name in info.data and (url is None or not takes_password(url.get_secret_value())):
            raise ValueError(f"must go with a RAGSTORE_{name.upper()} that names a user and no password")
        return value

    @model_validator(mode="after")
    def _both_urls_or_neither(self) -> Self:
        if (self.postgres_url is None) != (self.mongo_url is None):
            raise ValueError("one of the two databases has a URL and the other has none")
        return self
