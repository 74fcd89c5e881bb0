"""References are read as people write them, written so that they read back, and refused with the place in sight."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mmbench.errors import UsageError
from mmbench.reference import complete_hints, format_reference, has_options, parse_reference


@pytest.mark.parametrize(
    ("text", "head", "options"),
    [
        ("cnn", "cnn", {}),
        ("  cnn  ", "cnn", {}),
        ("cnn[]", "cnn", {}),
        ("cnn[ ]", "cnn", {}),
        ("cnn[width=32]", "cnn", {"width": 32}),
        ("cnn[ width = 32 , depth=2, ]", "cnn", {"width": 32, "depth": 2}),
        ("timm/resnet18[tuning=frozen]", "timm/resnet18", {"tuning": "frozen"}),
        ("manifest:DIR/m.csv[image=image,text=the text]", "manifest:DIR/m.csv", {"image": "image", "text": "the text"}),
        ("manifest:/data/[a]/m.csv", "manifest:/data/[a]/m.csv", {}),
        ("manifest:/data/[a]/m.csv[label=y]", "manifest:/data/[a]/m.csv", {"label": "y"}),
        ("manifest:/data/[a][]", "manifest:/data/[a]", {}),
        ("a['my column'=image]", "a", {"my column": "image"}),
        ('a["x=y"=image]', "a", {"x=y": "image"}),
        ("a[x=y=z]", "a", {"x": "y=z"}),
    ],
)
def test_a_reference_is_a_head_and_options(text: str, head: str, options: dict[str, Any]) -> None:
    assert parse_reference(text) == (head, options)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("+3", 3),
        ("1_000", 1000),
        ("0x1f", 31),
        ("1.5", 1.5),
        ("1e-3", 0.001),
        ("-1e-3", -0.001),
        ("true", True),
        ("false", False),
        ("null", None),
        ("True", "True"),
        ("nan", "nan"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("inf", "inf"),
        ("1e999", "1e999"),
        ("2024-01-01", "2024-01-01"),
        ("3x3", "3x3"),
        ("1.2.3", "1.2.3"),
        ("007", "007"),
        ("word", "word"),
        ("two words", "two words"),
        ("don't", "don't"),
        ("größe", "größe"),
        ('"quoted, with ] and \\n"', "quoted, with ] and \n"),
        ("'literal, with ] and \\n'", "literal, with ] and \\n"),
        ('"3"', "3"),
        ("''", ""),
        ("[]", []),
        ("[1,2]", [1, 2]),
        ("[1, 2, ]", [1, 2]),
        ("[a, 'b,c', [d]]", ["a", "b,c", ["d"]]),
        ('{"a": [1, 2]}', {"a": [1, 2]}),
        ("C:/data/file.csv", "C:/data/file.csv"),
    ],
)
def test_values_are_read_as_json_as_toml_or_as_plain_text(text: str, value: Any) -> None:
    parsed = parse_reference(f"name[key={text}]")[1]["key"]

    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a reference is empty; write a name such as cnn, or cnn[width=32]"),
        ("cnn[width=32", "cannot read this reference: this bracket is never closed\n  cnn[width=32\n     ^"),
        ("cnn[a='x]", "cannot read this reference: this bracket is never closed\n  cnn[a='x]\n     ^"),
        (
            "cnn[a=[1]",
            "cannot read this reference: this bracket is never closed\n  cnn[a=[1]\n     ^",
        ),
        ("cnn]", "cannot read this reference: this bracket was never opened\n  cnn]\n     ^"),
        (
            "cnn[width=32]x",
            "cannot read this reference: the options end here, but more text follows\n  cnn[width=32]x\n               ^",
        ),
        ("[a=1]", "cannot read this reference: a name must stand before the options\n  [a=1]\n  ^"),
        (
            "cnn[width]",
            "cannot read this reference: options read key=value, separated by commas\n  cnn[width]\n      ^",
        ),
        (
            "cnn[a=1, =2]",
            "cannot read this reference: options read key=value, separated by commas\n  cnn[a=1, =2]\n           ^",
        ),
        (
            "cnn[a=1,,b=2]",
            "cannot read this reference: options read key=value, separated by commas\n  cnn[a=1,,b=2]\n          ^",
        ),
        (
            "cnn[a=]",
            "cannot read this reference: option 'a' has no value; write a=\"\" for an empty one\n  cnn[a=]\n       ^",
        ),
        ("cnn[a=1,a=2]", "cannot read this reference: option 'a' is given twice\n  cnn[a=1,a=2]\n          ^"),
    ],
)
def test_what_cannot_be_read_is_repeated_with_the_place_marked(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("head", "options", "text"),
    [
        ("cnn", {}, "cnn"),
        ("cnn", {"width": 32, "norm": "group"}, "cnn[width=32,norm=group]"),
        (
            "cnn",
            {"a": "3", "b": "true", "c": "", "d": " x", "e": "a,b", "f": "don't"},
            'cnn[a="3",b="true",c="",d=" x",e="a,b",f="don\'t"]',
        ),
        (
            "cnn",
            {"a": [1, "x", ["y"]], "b": None, "c": True, "d": 0.1, "e": {"k": "v"}},
            'cnn[a=[1,x,[y]],b=null,c=true,d=0.1,e={"k": "v"}]',
        ),
        ("manifest:/data/[a]", {}, "manifest:/data/[a][]"),
    ],
)
def test_a_reference_is_written_as_a_person_would(head: str, options: dict[str, Any], text: str) -> None:
    assert format_reference(head, options) == text


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("cnn", False), ("resnet[0-9]", False), ("resnet[0-9][width=3]", True), ("*[]", True), ("a[b]c", False)],
)
def test_a_character_class_of_a_glob_is_not_taken_for_options(pattern: str, expected: bool) -> None:
    assert has_options(pattern) is expected


HEADS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}([:/][a-zA-Z0-9./_-]{1,10})?", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(head=HEADS, options=st.dictionaries(st.text(min_size=1), JSON, max_size=4))
@example(head="a", options={"k": "[", "l": "'", "m": '"', "n": "]", "o": "{", "p": "=", "q": "\\"})
@example(head="a", options={"k": ["", " ", "a b", "1", "null", "'x'"], "'": 1, '"': 2, "a=b": 3, "[": 4})
def test_every_written_reference_reads_back_as_it_was(head: str, options: dict[str, Any]) -> None:
    assert parse_reference(format_reference(head, options)) == (head, options)


@given(st.text(alphabet="ab[]{}=,'\"\\ :/*13.-", max_size=20))
def test_any_text_is_either_read_or_refused_for_a_reason(text: str) -> None:
    try:
        head, options = parse_reference(text)
    except UsageError as refusal:
        assert "\n" in str(refusal) or str(refusal).startswith("a reference is empty")
        return

    assert head
    assert all(not isinstance(value, float) or math.isfinite(value) for value in options.values())
    assert parse_reference(format_reference(head, options)) == (head, options)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("name them by [label=y]", "name them by -d 'my data.csv[encoding=cp1252,label=y]'"),
        ("try [encoding=utf-16], or [id=\"\"]",
         "try -d 'my data.csv[encoding=utf-16]', or -d 'my data.csv[encoding=cp1252,id=\"\"]'"),
        ("a cell is '[a=1]', a list [0, 1]", "a cell is '[a=1]', a list [0, 1]"),
        ("as in data.csv[label=y]", "as in data.csv[label=y]"),
        ("[a=1,a=2] names one twice", "[a=1,a=2] names one twice"),
    ],
)  # fmt: skip
def test_options_that_a_message_recommends_become_the_reference_to_type(message, expected):
    assert complete_hints(message, "my data.csv", {"encoding": "cp1252"}) == expected
