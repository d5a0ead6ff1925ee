"""What can be done to an image: attack columns as data, and the functions that carry them out."""

from frbench.attacks.build import Attacker, build_attack, seeded
from frbench.attacks.columns import autoattack, parse_attacks, parse_eps, pgd, specs
from frbench.attacks.spec import AA_STAGES, AttackSpec, format_length

__all__ = [
    "AA_STAGES",
    "AttackSpec",
    "Attacker",
    "autoattack",
    "build_attack",
    "format_length",
    "parse_attacks",
    "parse_eps",
    "pgd",
    "seeded",
    "specs",
]
