"""Tokens are the same on every machine and for every way to write the same text."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmbench_text.tokens import Characters, WordsAndNgrams, normalise


def crc(piece, size):
    return zlib.crc32(piece.encode()) % size


def test_character_numbers_are_these():
    numbers = Characters(vocabulary_size=2048, max_length=256)("Zéro")

    assert numbers.dtype == np.int32
    # CRC-32 of the UTF-8 bytes modulo the size, computed bit by bit.
    assert numbers.tolist() == [1697, 1967, 1342, 1949, 836, 1591]


def test_ngram_numbers_are_these():
    numbers = WordsAndNgrams(vocabulary_size=8192, max_ngram=3, max_length=1024)("ab")

    assert numbers.tolist() == [3615, 7747, 4089, 435, 2157, 2656, 6126, 154]


def test_a_word_gives_itself_its_ngrams_and_its_edges():
    numbers = WordsAndNgrams(vocabulary_size=1 << 30, max_ngram=2, max_length=99)("ja")

    pieces = ["\x02ja\x03", "j", "a", "\x02j", "ja", "a\x03"]
    assert numbers.tolist() == [crc(piece, 1 << 30) for piece in pieces]


def test_ngrams_do_not_cross_words():
    split = WordsAndNgrams(vocabulary_size=1 << 30, max_ngram=3, max_length=99)

    assert split("ab cd").tolist() == split("ab").tolist() + split("cd").tolist()


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b"])
def test_an_empty_text_has_at_least_one_token(text):
    assert len(Characters(vocabulary_size=10, max_length=5)(text)) >= 1
    assert len(WordsAndNgrams(vocabulary_size=10, max_ngram=3, max_length=5)(text)) >= 1
    assert len(WordsAndNgrams(vocabulary_size=10, max_ngram=0, max_length=5)(text)) >= 1


def test_a_text_of_one_character_is_not_an_empty_text():
    split = WordsAndNgrams(vocabulary_size=1 << 30, max_ngram=3, max_length=99)

    assert split("a").tolist() != split("").tolist()


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("FÜNF", "fünf"),
        ("fu\u0308nf", "fünf"),
        ("ＦＩＶＥ", "five"),
        ("Straße", "strasse"),
        ("①", "1"),
        ("ﬁve", "five"),
    ],
)
def test_ways_to_write_the_same_are_the_same(written, normalised):
    assert normalise(written) == normalised


def test_long_texts_are_cut_off():
    assert len(Characters(vocabulary_size=100, max_length=10)("x" * 50)) == 10
    assert len(WordsAndNgrams(vocabulary_size=100, max_ngram=3, max_length=10)("x" * 50)) == 10


@given(text=st.text())
def test_any_text_gives_numbers_within_the_vocabulary(text):
    for transform in (
        Characters(vocabulary_size=97, max_length=20),
        WordsAndNgrams(vocabulary_size=97, max_ngram=3, max_length=20),
    ):
        numbers = transform(text)

        assert 1 <= len(numbers) <= 20
        assert ((numbers >= 0) & (numbers < 97)).all()


def test_a_lone_surrogate_from_a_broken_file_is_a_character_like_others():
    assert Characters(vocabulary_size=97, max_length=20)("a\ud800b").shape == (5,)


def test_numbers_are_the_same_in_another_process_with_another_hash_seed():
    code = (
        "from mmbench_text.tokens import WordsAndNgrams;"
        "print(WordsAndNgrams(vocabulary_size=8192, max_ngram=3, max_length=99)('семь').tolist())"
    )
    env = {"PYTHONHASHSEED": "123"}

    printed = subprocess.check_output([sys.executable, "-c", code], text=True, env=env).strip()

    assert printed == str(WordsAndNgrams(vocabulary_size=8192, max_ngram=3, max_length=99)("семь").tolist())


def test_the_light_module_imports_no_torch():
    code = "import sys, mmbench_text; mmbench_text.mmbench_encoders(); print('torch' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@given(st.text(max_size=40), st.integers(1, 60))
def test_every_number_says_where_its_piece_stands(text, limit):
    for transform in (
        Characters(vocabulary_size=512, max_length=limit),
        WordsAndNgrams(vocabulary_size=512, max_ngram=3, max_length=limit),
    ):
        read, spans = transform.pieces(text)

        assert read == normalise(text)
        assert len(spans) == len(transform(text))
        assert all(0 <= begin <= end <= len(read) for begin, end in spans)


def test_pieces_stand_where_their_letters_do():
    read, spans = WordsAndNgrams(vocabulary_size=512, max_ngram=2, max_length=99).pieces("An a")

    # For each word: itself, its letters, then pairs of neighbours, the marks before and behind it among them.
    assert [read[begin:end] for begin, end in spans] == ["an", "a", "n", "a", "an", "n", "a", "a", "a", "a"]
    assert spans[6:] == [(3, 4)] * 4
    assert Characters(vocabulary_size=512, max_length=9).pieces("Ab") == ("ab", [(0, 0), (0, 1), (1, 2), (2, 2)])
