"""Pages say what they are given as text, and nothing in it becomes a tag."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.errors import StoreError
from engine.html import LONGEST, Captions, Section, document, png, table, text


class Tags(HTMLParser):
    """Collects what a browser takes for tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]


def page(words: str) -> str:
    captions = Captions()
    parts = [captions.table([words, "b"], [[words, 1]], words, words), captions.table((), [[words, words]], words)]
    return document(words, [Section(words, "a", parts)], notice=words)


@given(
    st.text(min_size=1)
    | st.sampled_from(["<b>", "'\"><script>", "--><!--", "]]>", "</style>", "`<i>`", "\u202e", "\0"])
)
def test_no_text_becomes_a_tag(words):
    # Backticks make code of our own words, and of others at worst.
    assert [tag for tag in Tags(page(words)).tags if tag != "code"] == Tags(page("plain")).tags


@given(st.text(min_size=LONGEST))
def test_a_text_is_cut(words):
    assert len(text(words)) <= 6 * LONGEST


def test_columns_of_numbers_stand_to_the_right():
    drawn = table(("name", "ha", "share", "range", "kind"), [["a", "1,234.5", "3%", "0.900 (0.81-0.95)", "L8"]])
    assert drawn.count("<td class=n>") == 3
    assert "<td>L8</td>" in drawn


def test_a_table_without_rows_is_nothing():
    assert table(("a",), []) == ""
    assert Captions().table(("a",), [], "none") == ""


def test_tables_and_figures_are_numbered_in_their_order():
    captions = Captions()
    assert "Table 1." in captions.table(("a",), [[1]], "one", "a b.csv")
    assert "Figure 1." in captions.figure("<img>", "two")
    assert '<a href="a%20b.csv">a b.csv</a>' in captions.table(("a",), [[1]], "three", "a b.csv")
    assert captions.tables == 2


def test_a_picture_keeps_its_size_and_has_a_description(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((150, 300, 4), np.uint8), "RGBA").save(path)
    drawn = png(path, alt='a "chart"')
    assert "<img width=192 height=96" in drawn
    assert 'alt="a &quot;chart&quot;"' in drawn


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<svg/>", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_png_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="no picture"):
        png(path, alt="")


def test_a_picture_of_too_many_pixels_is_not_unpacked(tmp_path):
    path = tmp_path / "a.png"
    Image.new("1", (9_000, 9_000)).save(path)
    with pytest.raises(StoreError, match="no picture"):
        png(path, alt="")
