from __future__ import annotations

import hashlib

import pytest

from shards.packing import identity

KEY = b"a" * 16


def test_pseudonyms_need_the_key_and_differ_by_kind() -> None:
    names = {identity.pseudonym("ID_1", kind, key) for kind in ("patient", "study") for key in (KEY, b"b" * 16)}
    assert len(names) == 4
    assert all(name is not None and len(name) == 32 for name in names)


def test_a_pseudonym_is_the_hash_of_the_identifier_as_it_is_spelled() -> None:
    for text in ("ID_0a1b", "Smith 7", "2.25.7"):
        expected = hashlib.blake2b(text.encode(), digest_size=16, key=KEY, person=b"patient").hexdigest()
        assert identity.pseudonym(text, "patient", KEY) == expected


@pytest.mark.parametrize("spelling", ["ab 12", "AB 12", " Ab  12 ", "ab\t12", "aB 12\0", "\u00a0ab 12", "\uff21B 12"])
def test_all_spellings_of_an_identifier_have_one_number(spelling: str) -> None:
    assert identity.number(spelling, "patient", KEY) == identity.number("AB 12", "patient", KEY)


def test_different_identifiers_kinds_and_keys_have_different_numbers() -> None:
    texts = ["AB12", "AB 12", "AB 13", "AB^12", "AB 12^", "0AB 12", "1.2", "1.20"]
    numbers = {identity.number(t, kind, key) for t in texts for kind in identity.KINDS for key in (KEY, b"b" * 16)}
    assert len(numbers) == 48
    assert all(number is not None and -(2**63) <= number < 2**63 for number in numbers)


@pytest.mark.parametrize("text", [None, "", " \0 ", "\t"])
def test_no_identifier_has_neither_pseudonym_nor_number(text: str | None) -> None:
    assert identity.pseudonym(text, "patient", KEY) is None
    assert identity.number(text, "patient", KEY) is None
