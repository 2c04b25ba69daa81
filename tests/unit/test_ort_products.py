"""The dots of an einsum get letters."""

from __future__ import annotations

import pytest

from acpt_trainer.ort.symbolics.products import without_dots


@pytest.mark.parametrize(
    ("equation", "ranks", "expected"),
    [
        ("ij,jk->ik", [2, 2], "ij,jk->ik"),
        ("...ij->...ji", [4], "abij->abji"),
        ("...rk,rkc->...rc", [4, 3], "abrk,rkc->abrc"),
        ("...i,...i->...", [2, 3], "bi,abi->ab"),  # axes are counted from the end
        ("i...,j...->ij...", [3, 1], "iab,j->ijab"),
        ("ab...->...", [3], "abc->c"),
        ("...i,i", [2, 1], "...i,i"),  # what comes out is not said: left as it is
        ("...i->...", [None], "...i->..."),
    ],
)
def test_dots_get_the_letters_of_their_axes(
    equation: str, ranks: list[int | None], expected: str
) -> None:
    assert without_dots(equation, ranks) == expected
