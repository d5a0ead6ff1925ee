"""Which columns exist, what they mean and what happens when a name or a number is wrong."""

from __future__ import annotations

import math

import pytest

from frbench.attacks import AA_STAGES, autoattack, parse_attacks, parse_eps, pgd, specs
from frbench.errors import InputError


def test_standard_columns_have_the_papers_settings() -> None:
    table = specs()
    assert list(table) == ["clean", "fgsm", "pgd20", "cw", "aa"]
    assert {s.eps for s in table.values()} == {0.0, 8 / 255}
    assert (table["pgd20"].steps, table["pgd20"].step_size) == (20, 2 / 255)
    assert (table["cw"].steps, table["cw"].step_size) == (30, 2 / 255)
    assert table["aa"].stages == AA_STAGES
    assert [s.label for s in table.values()] == ["Clean", "FGSM", "PGD-20", "C&W", "AA"]


def test_l2_has_the_columns_that_the_libraries_have() -> None:
    table = specs("L2")
    assert list(table) == ["clean", "pgd20", "aa"]
    assert table["aa"].eps == 0.5 and table["aa"].norm == "L2"
    assert table["clean"] == specs("Linf")["clean"], "clean cells are shared between norms"


def test_any_number_of_pgd_steps_is_a_column() -> None:
    assert parse_attacks("pgd1,pgd100") == [pgd(1), pgd(100)]


def test_fewer_stages_have_another_name_and_label() -> None:
    (fewer,) = parse_attacks("aa", stages="apgd-t, apgd-ce")
    assert fewer.name == "aa-apgd-ce+apgd-t", "the order is AutoAttack's, whatever was typed"
    assert fewer.label == "AA (APGD-CE, APGD-T)"
    (whole,) = parse_attacks("aa", stages="square,fab-t,apgd-t,apgd-ce")
    assert whole == autoattack()


def test_names_are_kept_in_order_and_once() -> None:
    assert [s.name for s in parse_attacks(" cw, FGSM,cw ,")] == ["cw", "fgsm"]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("pdg20", {}, "did you mean 'pgd20'?"),
        ("pgd0", {}, "unknown attack 'pgd0'"),
        ("", {}, "no attack given"),
        ("fgsm", {"norm": "L2"}, "L-infinity attack"),
        ("clean", {"norm": "L1"}, "unknown norm 'L1'"),
        ("clean", {"norm": "L2"}, "clean images have no norm"),
        ("clean", {"eps": 4 / 255}, "clean images have no norm and no eps"),
        ("aa", {"stages": "apgd-c"}, "did you mean 'apgd-ce'?"),
        ("aa", {"stages": ","}, "no AutoAttack stage given"),
        ("fgsm", {"stages": "square"}, "stages belong to the attack 'aa'"),
        ("fgsm", {"eps": -1 / 255}, "not in (0, 1]"),
        ("fgsm", {"eps": 0.0}, "not in (0, 1]"),
        ("fgsm", {"eps": 8.0}, "not in (0, 1]"),
        ("fgsm", {"eps": math.nan}, "not in (0, 1]"),
    ],
)
def test_wrong_input_is_one_clear_line(text: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_attacks(text, **options)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_eps_is_read_as_people_write_it() -> None:
    assert parse_eps("8/255") == 8 / 255
    assert parse_eps("0.031") == 0.031
    for wrong in ("eight", "8/0", "", "1e400"):
        with pytest.raises(InputError, match="is not a number"):
            parse_eps(wrong)
