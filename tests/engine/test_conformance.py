"""The conformance suite sees what it promises to see, and says in which file and line."""

from __future__ import annotations

import re

import pytest
import typer

from frbench.cli.recipes import check
from frbench.engine.conformance import CHECKS, check_recipe, forward_units_table
from frbench.engine.registry import defenses, parse_defense

HEAD = """
import torch
import torch.nn.functional as F
from frbench.engine import InnerAttack, Objective, Recipe
"""
TAIL = """
recipe = Recipe(base="mine", objective=Mine(), attack=ATTACK)
"""
HONEST = """
class Mine(Objective):
    branches = ("adversarial",)

    def loss(self, outputs):
        return F.cross_entropy(outputs.adversarial_logits, outputs.labels)

ATTACK = InnerAttack()
"""


def failed(own_defenses, body, names=None):
    own_defenses(mine=HEAD + body + TAIL)
    results = check_recipe(parse_defense("mine"), names)
    return {r.name: r.detail for r in results if not r.passed}


def loss(expression, branches='("adversarial",)'):
    honest = "F.cross_entropy(outputs.adversarial_logits, outputs.labels)"
    return HONEST.replace(honest, expression).replace('("adversarial",)', branches)


def attack(body):
    own = f"class Own(InnerAttack):\n{body}\nATTACK = Own()"
    return HONEST.replace("ATTACK = InnerAttack()", own)


def test_an_honest_recipe_passes_every_check(own_defenses):
    assert failed(own_defenses, HONEST) == {}
    assert len(CHECKS) >= 10


HONEST_LOSS = "F.cross_entropy(outputs.adversarial_logits, outputs.labels)"
PERTURB = "    def perturb(self, model, images, labels, noise):\n        "
ASCENDED = "    def ascended(self, logits, labels, target):\n        "
FAULTS = {
    "undeclared branch": (
        loss(f"{HONEST_LOSS} + F.cross_entropy(outputs.clean_logits, outputs.labels)"),
        "cost as declared, and no higher than needed",
        r"mine\.py:6: declares 23 forward units .*counted 26\.00",
    ),
    "declared branch that is not used": (
        loss(HONEST_LOSS, '("adversarial", "clean")'),
        "BatchNorm forwards as declared",
        r"mine\.py:6: 1 train-mode forwards a step, declares 2",
    ),
    "gradient that is thrown away": (
        loss(
            f"{HONEST_LOSS} + 0 * outputs.clean_logits.detach().sum()", '("adversarial", "clean")'
        ),
        "cost as declared, and no higher than needed",
        "declares 26",
    ),
    "attack that declares another cost": (
        attack("    def forward_units(self):\n        return 5"),
        "cost as declared, and no higher than needed",
        r"mine\.py:12: the attack alone declares 5 forward units .* counted 20\.00; `forward_un",
    ),
    "attack with a forward pass that nothing needs": (
        attack(
            "    def forward_units(self):\n        return 1 + super().forward_units()\n\n"
            + PERTURB
            + "model(images)\n        return super().perturb(model, images, labels, noise)"
        ),
        "cost as declared, and no higher than needed",
        r"mine\.py:12: the attack alone counted 21\.00 forward units, its mathematics needs 20",
    ),
    "loss that is not finite": (
        loss("(outputs.adversarial_logits * 0).sum().log()"),
        "loss and gradients are finite",
        r"mine\.py:6: the loss is -inf; keep",
    ),
    "loss that is not finite once predictions are certain": (
        loss("-(0.8 - outputs.adversarial_logits.softmax(1).amax(1)).log().mean()"),
        "loss and gradients are finite",
        r"mine\.py:6: the loss is nan where predictions are certain; keep logarithms",
    ),
    "gradient that is not finite where all classes tie": (
        loss(f"{HONEST_LOSS} + outputs.adversarial_logits.var(dim=1).sqrt().mean()"),
        "loss and gradients are finite",
        r"mine\.py:6: the gradient of net\S* is not finite where all classes have the same logit",
    ),
    "loss of one number an image": (
        loss(HONEST_LOSS.replace("labels)", 'labels, reduction="none")')),
        "loss and gradients are finite",
        r"^\S*defenses/mine\.py:6: Mine\.loss must return one number .* shape \(24,\)",
    ),
    "attack that climbs one number an image": (
        attack(ASCENDED + 'return F.cross_entropy(logits, labels, reduction="none")'),
        "attack follows its gradient",
        r"^\S*defenses/mine\.py:12: Own\.ascended must return one number .* shape \(24,\)",
    ),
    "loss that raises": (
        loss("F.cross_entropy(outputs.adversarial_logits, outputs.labels[:3])"),
        "loss and gradients are finite",
        r"mine\.py:10: ValueError: Expected input batch_size",
    ),
    "loss without labels": (
        loss("outputs.adversarial_logits.square().mean()")
        + "\nATTACK = InnerAttack(maximize='kl', start='gaussian')",
        "step uses the labels",
        r"mine\.py:6: the step does not depend on the labels",
    ),
    "loss with a random number": (
        loss(f"{HONEST_LOSS} * torch.rand(())"),
        "two steps with one seed are bit-equal",
        r"mine\.py:6: two steps from one seed gave other weights",
    ),
    "attack out of the ball": (
        attack(PERTURB + "return (images + 0.1).clamp(0, 1)"),
        "attack stays in the eps ball and in [0, 1]",
        r"mine\.py:12: the attack moved a pixel by 0\.1",
    ),
    "attack out of the box": (
        attack(PERTURB + "return images - 0.01"),
        "attack stays in the eps ball and in [0, 1]",
        r"mine\.py:12: the attack gave pixels in \[-0\.01",
    ),
    "attack that leaves gradients": (
        attack(
            PERTURB
            + "F.cross_entropy(model(images), labels).backward()\n        return images.clone()"
        ),
        "attack leaves no gradient on parameters",
        r"mine\.py:12: the attack left a gradient on net",
    ),
    "attack in train mode": (
        attack(PERTURB + "model.train()(images)\n        return images + 0 * noise"),
        "attack moves BatchNorm as declared",
        r"mine\.py:12: the attack moved BatchNorm statistics 1 times, declares 0",
    ),
    "attack that ignores its start": (
        attack(PERTURB + "return images.clone()"),
        "attack follows from its random start",
        r"mine\.py:12: the attack ignores its random start",
    ),
    "attack with random numbers of its own": (
        attack(PERTURB + "return (images + 0.01 * torch.rand_like(images)).clamp(0, 1)"),
        "attack follows from its random start",
        r"mine\.py:12: the attack draws random numbers of its own",
    ),
    "attack whose loss is NaN": (
        attack(ASCENDED + "return F.cross_entropy(logits, labels) * float('nan')"),
        "attack follows its gradient",
        r"mine\.py:12: the attack stays at its random start: .* zero or NaN",
    ),
    "attack that descends": (
        attack(ASCENDED + "return -F.cross_entropy(logits, labels)"),
        "attack follows its gradient",
        r"mine\.py:12: the attack says maximize='ce', but the cross-entropy goes .* to 5.*sign",
    ),
    "attack whose loss is constant": (
        attack(ASCENDED + "return 0 * F.cross_entropy(logits, labels)"),
        "attack follows its gradient",
        r"mine\.py:12: the attack stays at its random start: .* zero or NaN",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen_and_explained(own_defenses, fault):
    body, check, said = FAULTS[fault]
    found = failed(own_defenses, body, [check])
    assert check in found
    assert re.search(said, found[check]), found[check]
    assert all("\n" not in detail for detail in found.values())


@pytest.mark.parametrize("worth", ["float('nan')", "float('inf')"])
def test_a_loss_that_is_not_finite_sends_nobody_after_random_numbers(own_defenses, worth):
    found = failed(own_defenses, loss(f"{HONEST_LOSS} * {worth}"))
    assert found.keys() == {
        "loss and gradients are finite",
        "a resumed run equals an uninterrupted one",
    }
    assert all(re.search(r"mine\.py:6: the .* (is|are not) ", said) for said in found.values())
    assert not re.search("try|saved|/straight", " ".join(found.values()))


TURNED = ASCENDED + "return SIGN * super().ascended(logits, labels, target)"


@pytest.mark.parametrize("batchnorm", ["eval", "train"])
@pytest.mark.parametrize("start", ["uniform", "gaussian"])
@pytest.mark.parametrize("maximize", ["ce", "kl"])
@pytest.mark.parametrize(("sign", "seen"), [(1, False), (-1, True)])
@pytest.mark.parametrize("eps", [1e-5, 0.001, 8 / 255])
def test_an_attack_that_descends_is_seen_in_every_mode_and_no_other(
    own_defenses, sign, seen, maximize, start, batchnorm, eps
):
    settings = f"start='{start}', maximize='{maximize}', batchnorm='{batchnorm}', eps={eps}"
    body = attack(TURNED.replace("SIGN", str(sign))).replace("Own()", f"Own({settings})")
    check = "attack follows its gradient"
    assert (check in failed(own_defenses, body, [check])) is seen


@pytest.mark.parametrize(
    "ascended",
    [
        "F.cross_entropy(logits, labels)",
        "F.multi_margin_loss(logits, labels)",
        "-logits.gather(1, labels[:, None]).sum()",
        "super().ascended(logits, labels, target) + logits.square().sum()",
    ],
)
def test_an_attack_that_raises_cross_entropy_in_its_own_way_is_none_that_descends(
    own_defenses, ascended
):
    check = "attack follows its gradient"
    assert failed(own_defenses, attack(ASCENDED + f"return {ascended}"), [check]) == {}


def test_an_attack_that_says_what_else_it_climbs_is_believed(own_defenses):
    body = attack('    maximize: str = "friendliness"\n' + TURNED.replace("SIGN", "-1"))
    assert failed(own_defenses, body, ["attack follows its gradient"]) == {}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ('original={"weightdecay": 2e-4}', "original: unknown key .weightdecay.: did you mean"),
        ('original={"lr": -1.0}', "original: impossible setting lr=-1.0"),
        (
            'original_for={"resnet18": {"weightdecay": 1}}',
            r'original_for\["resnet18"\]: unknown key .weightdecay.: did you mean .weight_decay.',
        ),
        ('original_for={"resnet81": {}}', r'original_for\["resnet81"\]: unknown architecture'),
        (
            'original_with={"awp": {"awp.gama": 1}}',
            r'original_with\["awp"\]: unknown key .awp.gama.: did you mean .awp.gamma.',
        ),
        ('original_with={"apw": {}}', r'original_with\["apw"\]: unknown mechanism .apw.'),
    ],
)
def test_a_typo_in_the_authors_settings_is_a_broken_promise(own_defenses, settings, says):
    own_defenses(mine=HEAD + HONEST + TAIL.replace("attack=ATTACK", f"attack=ATTACK, {settings}"))
    check = "the authors' own settings can be used"
    for name in ("mine", "mine+ema"):
        (result,) = check_recipe(parse_defense(name), [check])
        assert not result.passed
        assert re.search(rf"mine\.py: {says}", result.detail), result.detail


def test_a_broken_promise_is_printed_whole_and_costs_nothing_to_count(
    own_defenses, tmp_path, monkeypatch, capsys
):
    body = loss("F.cross_entropy(outputs.nothing, outputs.labels) * 1.0")
    own_defenses(mine=HEAD + body + TAIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(typer.Exit):
        check("mine")
    said = capsys.readouterr().out
    assert "Forward units a step" not in said and "…" not in said
    seen = "".join(line.split("│")[3].strip() for line in said.splitlines() if "│" in line)
    assert "defenses/mine.py:10:AttributeError" in seen.replace(" ", "")
    assert "nothing" in seen and "[" not in seen.replace("[0, 1]", "")


def test_promises_that_are_kept_are_told_in_one_word_each(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    check("pgd_at")
    said = capsys.readouterr()
    told = said.out[: said.out.index("Forward units")]
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in told.splitlines()]
    assert [row[1:] for row in rows if row] == [["yes", ""]] * len(CHECKS)
    assert said.err == ""


def test_forward_units_of_every_recipe_declared_counted_and_least():
    table = {cost.defense: cost for cost in forward_units_table(defenses()[0])}
    least = {
        "pgd_at": 2 * 10 + 3,
        "at_swa": 2 * 10 + 3,
        "trades": 2 * 10 + 1 + 2 * 3,
        "mart": 2 * 10 + 2 * 3,
        "at_fr": 2 * 10 + 2 * 3,
        "at_fr_swa": 2 * 10 + 2 * 3,
        "awp": 2 * 10 + 2 * 3,
        "score": 2 * 10 + 1 + 2 * 3,
    }
    assert table.keys() >= least.keys()
    for name, units in least.items():
        cost = table[name]
        assert (cost.declared, cost.minimum) == (units, units)
        assert cost.counted == pytest.approx(units, abs=0.01)


@pytest.mark.parametrize(
    ("name", "units"), [("trades+awp+ema", 33), ("mart+fr", 26), ("pgd_at+awp+swa", 26)]
)
def test_forward_units_of_compositions(name, units):
    (cost,) = forward_units_table([name])
    assert (cost.declared, round(cost.counted, 2), cost.minimum) == (units, units, units)
