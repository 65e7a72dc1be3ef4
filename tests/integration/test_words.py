"""Keyword search in any language, and what an exact word is worth in hybrid search."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from llama_index.core.schema import TextNode

from ragstore.app import Ragstore
from tests.support.parts import execute

pytestmark = pytest.mark.on_both

FILLER = "an ordinary text about something else"


def fill(store: Ragstore, texts: list[str], vectors: list[list[float]] | None = None, config: str = "english") -> None:
    quiet = {"text_search_config": config, "index_min_nodes": 1_000_000}
    store.settings = store.settings.model_copy(update=quiet)
    store.create_collection("docs", model="external", dim=2)
    vectors = vectors or [[1.0, 0.0]] * len(texts)
    nodes = [
        TextNode(id_=f"n{position:05d}", text=text, embedding=vector)
        for position, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]
    store.storage_context("docs").vector_store.add(nodes)


def found(store: Ragstore, question: str, top_k: int = 10) -> list[str]:
    return [hit.text for hit in store.query(question, collection="docs", mode="keyword", top_k=top_k)]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("使用过滤器查询数据库2.0版本", "过滤器"),
        ("使用过滤器查询数据库2.0版本", "2.0"),
        ("設定をリセットする方法", "リセット"),
        ("設定をリセットする方法", "ﾘｾｯﾄ"),
        ("東京タワーは高い", "東京"),
        ("山の水", "水"),
        ("水を飲む", "水"),
        ("ค้นหาข้อมูลในระบบ", "ค้นหา"),
        ("ຄົ້ນຫາຂໍ້ມູນ", "ຂໍ້ມູນ"),
        ("ស្វែងរកទិន្នន័យ", "ទិន្នន័យ"),
        ("အချက်အလက်ရှာဖွေခြင်း", "ရှာဖွေ"),
        ("서울에서 만나요", "서울"),
        ("Python用の過滤器API", "API"),
        ("une vieille église romane", "eglise"),
        ("une vieille eglise romane", "ÉGLISE"),
        ("viele Grüße aus Berlin", "Grüsse"),
        ("die Straße ist lang", "STRASSE"),
        ("Ångström and naïve café", "angstrom"),
        ("smørrebrød på færgen", "smorrebrod"),
        ("Việt Nam", "viet"),
        ("Ελλάδα", "ελλαδα"),
        ("ещё один вопрос", "еще"),
        ("كِتَابٌ جديد", "كتاب"),
        ("ｆｕｌｌ ｗｉｄｔｈ １２３", "width 123"),
        ("the ﬁle of the oﬃce", "office"),
        ("error E-4711 in the pump", "E-4711"),
        ("error E-4711 in the pump", "4711"),
        ("error E\u20114711 in the pump", "e-4711"),
        ("call foo_bar.baz twice", "foo_bar"),
        ("call foo_bar.baz twice", "baz"),
        ("part AB-1234 of the list", "1234"),
        ("part AB-1234 of the list", "ab 1234"),
        ("version 1.2.3 of it", "1.2.3"),
        ("see /usr/lib/postgresql/15/bin for it", "postgresql"),
        ("see https://docs.example.org/guide?page=intro#top", "intro"),
        ("write to first.last@mail.example", "last"),
        ("the getUserName method", "getusername"),
        ("the getUserName method", "user name"),
        ("if a<limit && maximum>b", "limit"),
        ("<b>bold</b>words", "bold"),
        ("sum=total+rest", "total"),
    ],
)
def test_words_of_every_language_and_parts_of_names_are_found(store: Ragstore, text: str, question: str) -> None:
    fill(store, [FILLER, text, FILLER])
    assert found(store, question)[:1] == [text]


@pytest.mark.parametrize(
    ("whole", "parts"),
    [
        ("E-4711", "the E of the list, and the 4711 too"),
        ("foo_bar.baz", "foo and bar and baz"),
        ("10.20.30", "10 20 30"),
        ("a/b-c/d.txt", "b c d txt"),
    ],
)
def test_a_whole_name_outranks_its_parts(store: Ragstore, whole: str, parts: str) -> None:
    long_text = f"this is about {whole} and " + "a good deal of other things which are said here at length " * 5
    fill(store, [parts, f"{parts} {parts}", long_text, *[FILLER] * 20])
    assert found(store, whole)[0].startswith("this is about")


ALPHABETS = {
    "latin": "abcdefghijklmnopqrstuvwxyzàéîõüßøæłđ",
    "upper": "ABCDEFGHÄÖÜÉŁ",
    "digits": "0123456789",
    "greek": "αβγδεζηθάέήίόύώ",
    "cyrillic": "абвгдежзийклмнёъы",
    "arabic": "ابتثجحخدذرز",
    "hebrew": "אבגדהוזחטי",
    "devanagari": "कखगघचछजझटठ",
    "han": "水火木金土日月山川田中国語文",
    "kana": "あいうえおかきくけこがぎアイウエオー",
    "hangul": "가나다라마바사아자차",
    "thai": "กขคงจฉชซญดต่้ิีุู",
    "khmer": "កខគឃងចឆជឈញាិីុូ",
    "myanmar": "ကခဂဃငစဆဇဈညာိီုူ",
    "wide": "ＡＢＣ１２３ａｂｃｱｲｳ",
}
JOINERS = [
    " ",
    " ",
    " ",
    "-",
    "_",
    ".",
    "/",
    ":",
    "@",
    ", ",
    "; ",
    "\n",
    " (",
    ") ",
    "–",
    "、",
    "…",
    "<",
    "&",
    "'",
    "’",
]


def a_text(rng: random.Random) -> tuple[str, list[str]]:
    words = []
    for _ in range(rng.randint(1, 12)):
        alphabets = rng.sample(sorted(ALPHABETS), rng.choice([1, 1, 1, 2]))
        words.append("".join(rng.choice(ALPHABETS[a]) for a in alphabets for _ in range(rng.randint(1, 6))))
    return "".join(f"{word}{rng.choice(JOINERS)}" for word in words), words


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_word_of_a_stored_text_finds_it(store: Ragstore, seed: int) -> None:
    rng = random.Random(seed)
    texts = [a_text(rng) for _ in range(150)]
    fill(store, [text for text, _ in texts], config="simple")
    for text, words in texts:
        for word in rng.sample(words, min(2, len(words))):
            assert text in found(store, word, top_k=150), f"{word!r} does not find {text!r}"


def test_a_text_of_a_hundred_thousand_distinct_signs_can_be_stored(store: Ragstore) -> None:
    rng = random.Random(1)
    huge = "".join(chr(rng.randrange(0x20000, 0x2A000)) for _ in range(150_000))
    fill(store, [huge, " ".join(f"a{n}.b{n}-c{n}" for n in range(20_000))])
    assert found(store, huge[:2]) == [huge]


def test_a_common_word_is_found_wherever_in_the_table_it_stands(store: Ragstore) -> None:
    fill(store, [FILLER] * 4_000 + ["late invoice"] * 2_000)
    execute(store.settings, "ANALYZE ragstore.data_docs")
    assert found(store, "invoice") == ["late invoice"] * 10
    assert len(found(store, "invoice ordinary", top_k=1000)) == 1000


@pytest.mark.parametrize("weight", [None, 0.5, 3.0, 100.0])
@pytest.mark.parametrize("question", ["E-4711", "error E-4711", "order error of item E-4711 in the order list"])
def test_the_only_chunk_with_a_rare_word_is_among_the_first_three(
    store: Ragstore, weight: float | None, question: str
) -> None:
    rng = random.Random(2)
    rows = [f"order {rng.randrange(10**6)} error of item {rng.randrange(10**4)} in list" for _ in range(3_000)]
    near = [[1.0, rng.uniform(0, 0.5)] for _ in rows]
    fill(store, [*rows, "Drucker zeigt E-4711"], [*near, [-1.0, 0.2]])
    execute(store.settings, "ANALYZE ragstore.data_docs")
    store.settings = store.settings.model_copy(update={"dense_weight": weight})
    hits = store.query(question, collection="docs", embedding=[1.0, 0.0], top_k=3)
    assert "Drucker zeigt E-4711" in [hit.text for hit in hits]


def test_vectors_that_are_like_nothing_outrank_no_word(store: Ragstore) -> None:
    texts = [f"noise {n}" for n in range(200)]
    fill(store, [*texts, "the printer manual"], [[0.05, 1.0]] * 200 + [[-1.0, 0.0]])
    hits = store.query("printer", collection="docs", embedding=[1.0, 0.0], top_k=5)
    assert hits[0].text == "the printer manual"
    assert len(hits) == 5


def test_parts_of_one_document_come_with_their_neighbours(store: Ragstore, tmp_path: Path) -> None:
    sentences = [f"Sentence number {n} tells of topic{n} and of nothing else in the world." for n in range(200)]
    (tmp_path / "long.txt").write_text(" ".join(sentences), encoding="utf-8")
    store.ingest(tmp_path, collection="files")
    text = " ".join(sentences)
    [alone] = store.query("topic100", collection="files", mode="keyword", top_k=1)
    assert alone.context is None
    [hit] = store.query("topic100", collection="files", mode="keyword", top_k=1, context=1)
    assert hit.context is not None
    assert hit.context in text
    assert hit.text in hit.context
    assert len(hit.context) > 2 * len(hit.text)
    [whole] = store.query("topic100", collection="files", mode="keyword", top_k=1, context=50)
    assert whole.context == text


def test_nodes_without_a_place_have_no_context(store: Ragstore) -> None:
    fill(store, ["one text", "another text"])
    assert [hit.context for hit in store.query("text", collection="docs", mode="keyword", context=2)] == [None, None]
