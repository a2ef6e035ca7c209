"""What a person called something becomes the name of a file, on every system and in no other folder."""

import pytest

from napari_memseg.io.names import MOST, safe_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../x", "x"),
        ("a/b\\c:d", "a_b_c_d"),
        ("two\nlines", "two_lines"),
        ("bone 🦴", "bone"),
        ("Fühler.v2", "Fühler.v2"),
        ("🦴", "none"),
        ("", "none"),
        ("CON", "_CON"),
        ("nul.tar", "_nul.tar"),
        ("Com1", "_Com1"),
        ("console", "console"),
        (300 * "a", MOST * "a"),
    ],
)
def test_a_name_is_one_that_a_file_can_have(text, name):
    assert safe_name(text, "none") == name


def test_letters_that_stay_can_be_chosen():
    assert safe_name("Fühler.v2", "none", letters="a-zA-Z0-9") == "F_hler_v2"
