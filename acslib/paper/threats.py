"""The attacks of Table C1, which perceptual training is evaluated with. Needs no torch."""

from acslib.paper import paramfiles, params

SEEN, UNSEEN = ("ppgd", "lpa"), ("autoattack_l2", "autoattack_linf", "jpeg", "stadv", "recolor")


def table_c1(dataset: str, side: int, effort: float = 1.0) -> dict[str, dict]:
    """Table C1 for `cifar10` or `imagenet12`: {name: {bound, iterations}}, in its order.

    `side` is that of the images at hand: l2 bounds shrink with it. `effort` scales the iterations.
    """
    content = params.checked("params/attacks.yaml", params.Attacks, paramfiles.read_yaml("attacks"))
    params.refuse_unknown("Table C1", [dataset], params.Attacks.model_fields)
    printed: params.Suite = getattr(content, dataset)
    suite: dict[str, dict] = {
        name: attack.model_dump(exclude_none=True) for name, attack in printed.attacks.items()
    }
    for name, entry in suite.items():
        if name.endswith("_l2"):
            entry["bound"] *= side / printed.side
        if "iterations" in entry:
            entry["iterations"] = max(1, round(entry["iterations"] * effort))
    return suite
