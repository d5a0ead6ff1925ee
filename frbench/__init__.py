"""frbench: train, attack and compare adversarially robust image classifiers.

Data flows one way: data, models, attacks, engine, evaluation, audit, leaderboard,
analysis, report, cli.
A stage imports only stages before it in that list, and the small modules beside this file.
"""

__version__ = "0.1.0"
