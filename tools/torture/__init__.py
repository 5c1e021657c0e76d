"""`make torture`: kills, damages, misuses and starves the experiments, and counts what goes wrong.

Each part is a module with a function of the same name, which yields an `Outcome` for each attempt.
Whatever is tried follows from the seed, so that it can be tried again. docs/reliability.md says
what is promised; this is how it is tested.
"""
