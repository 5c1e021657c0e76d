"""What a picture shows, in words: for those who cannot see it, and for whom it is not drawn.

`described` has the words of whoever drew it. Without them a picture says what matplotlib knows:
titles, axes, and for each line, cloud of points, bar and image from where to where it goes.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeAlias, TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import (
    Collection,
    FillBetweenPolyCollection,
    PathCollection,
    PolyCollection,
)
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.text import Annotation
from numpy.typing import ArrayLike

FigureOrAxes = TypeVar("FigureOrAxes", Figure, Axes)
Piece: TypeAlias = Artist | BarContainer | ErrorbarContainer
UNSAID = "what is drawn there is not described"
MATHS = {r"\ell_\infty": "linf", r"\ell_2": "l2", r"\gamma": "γ"}  # as it is read aloud
BARS = 6  # that are named one by one
LINES = 4  # without a name that are described one by one
MARKS = 20  # with a word beside them that are named one by one


def described(drawn: FigureOrAxes, text: str) -> FigureOrAxes:
    """A figure, or one panel of it, with what is seen there in words, see `in_words`."""
    drawn.set_label(text)
    return drawn


def in_words(figure: Figure) -> str:
    """What a picture shows: what `described` has said of it, else its own words.

    It goes with the picture in a notebook, and the site takes it for the alternative text. No
    sentence comes twice. A panel of which nothing can be said says so.
    """
    if figure.get_label():
        return str(figure.get_label())
    parts = [as_sentence(figure.get_suptitle())]
    for only_images, group in groupby(figure.axes, key=holds_an_image_alone):
        axes = list(group)
        parts += [images_in_words(axes)] if only_images else [panel(axis) for axis in axes]
    return " ".join(["A picture.", *dict.fromkeys(filter(None, parts))])


def as_sentence(words: str) -> str:
    """Words in one line that ends with a full stop, without signs of mathematics; nothing of
    nothing.
    """
    for written, said in MATHS.items():
        words = words.replace(written, said)
    line = " ".join(re.sub(r"(?<!\\)\$", "", words).replace(r"\$", "$").split())
    return line if not line or line[-1] in ".?!" else f"{line}."


def listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def brief(value: float) -> str:
    """A number in three digits, a large one as people write it."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def span(values: ArrayLike) -> str:
    """From the smallest to the largest."""
    values = np.asarray(values)  # a tensor of torch has no such functions
    low, high = float(values.min()), float(values.max())
    ends = [0.0 if abs(end) < 1e-6 * (high - low) else end for end in (low, high)]
    return brief(low) if low == high else from_to(*ends)


def from_to(first: float, last: float) -> str:
    """Where something begins and ends."""
    return f"from {brief(first)} to {brief(last)}"


# ---- panels


def panel(axis: Axes) -> str:
    """The words of one panel: its title, its axes, and what is drawn on it."""
    if axis.get_label():
        return as_sentence(": ".join(filter(None, [headline(axis), str(axis.get_label())])))
    sides = " against ".join(filter(None, [axis.get_ylabel(), axis.get_xlabel()]))
    found = drawn(axis)
    if not found and has_something(axis):
        found = [UNSAID]
    return as_sentence(": ".join(filter(None, [headline(axis), sides, "; ".join(found)])))


def headline(axis: Axes) -> str:
    return listed(filter(None, (axis.get_title(loc=side) for side in ("center", "left", "right"))))


def has_something(axis: Axes) -> bool:
    return any(each.get_visible() for each in (*axis.lines, *axis.collections, *axis.patches))


def holds_an_image_alone(axis: Axes) -> bool:
    return bool(axis.images) and not (axis.get_label() or axis.lines or axis.collections)


def images_in_words(axes: Sequence[Axes]) -> str:
    """Neighbouring images: what stands above them, and what cannot be told from that, their size
    and their shades.
    """
    titles = [listed(filter(None, [headline(axis), axis.get_xlabel()])) for axis in axes]
    images = [np.asarray(axis.images[0].get_array(), dtype=float) for axis in axes]
    height, width = images[0].shape[:2]
    count = f"{len(axes)} images" if len(axes) > 1 else "an image"
    said = [f"{text} ({times} times)" if times > 1 else text for text, times in in_a_row(titles)]
    told = f"{count} of {width} x {height} points: {'; '.join(said)}".removesuffix(": ")
    return as_sentence(told + changes_of(axes[0], np.concatenate([one.ravel() for one in images])))


def changes_of(axis: Axes, shades: np.ndarray) -> str:
    """What shades below 0 say: they are differences."""
    shades = shades[np.isfinite(shades)]
    if not len(shades) or shades.min() >= 0:
        return ""
    return f"; {shares_in_words(shades, max(map(abs, axis.images[0].get_clim())))}"


def shares_in_words(
    changes: ArrayLike, limit: float, up: str = "raised", down: str = "lowered"
) -> str:
    """What share of pixels a change moves `up` and `down`, and what share by all of `limit`."""
    moved = np.asarray(changes, dtype=float)
    sides = [
        f"{percent(side * moved > 0)} of the pixels are {word},"
        f" {percent(side * moved > 0.999 * limit)} by the whole {brief(limit)}"
        for side, word in ((1, up), (-1, down))
    ]
    return f"{'; '.join(sides)}; {percent(moved == 0)} stay as they are"


def percent(those: np.ndarray) -> str:
    """Which share of all is among those."""
    return f"{100 * float(those.mean()):.0f} %"


def in_a_row(words: Iterable[str]) -> list[tuple[str, int]]:
    """Words, and how often each comes one after the other; empty ones are left out."""
    return [(word, len(list(again))) for word, again in groupby(words) if word]


def drawn(axis: Axes) -> list[str]:
    """What is seen on a panel: what the legend names, then what has another name; where nothing has
    a name, all that there is.
    """
    parts = artists_of(axis)
    legend = axis.get_legend()
    names = [text.get_text() for text in legend.get_texts()] if legend else []
    by_name = {name: part for part, name in parts.items() if name}
    said = [called(name, about(axis, by_name.get(name))) for name in names]
    if by_name:
        said += [
            called(name, about(axis, part)) for name, part in by_name.items() if name not in names
        ]
    elif not names:
        said += unnamed(axis, list(parts))
    said = list(filter(None, said))
    return said + words_on(axis, alone=not said)


def called(name: str, where: str) -> str:
    """A part of a panel by its name, and where it is."""
    if where.startswith("("):
        return f"{name} {where}".strip()
    return listed(filter(None, [name, where]))


def words_on(axis: Axes, alone: bool) -> list[str]:
    """Words that stand at points, and, where there is nothing else, those that stand anywhere."""
    texts = [text for text in axis.texts if text.get_text().strip()]
    marks = [text for text in texts if isinstance(text, Annotation)]
    if alone and len(texts) <= BARS:
        return [text.get_text() for text in texts]
    if not 0 < len(marks) <= MARKS:
        return []
    places = (
        f"{mark.get_text().strip()} at ({', '.join(brief(float(one)) for one in mark.xy)})"
        for mark in marks
    )
    return [f"marked {listed(places)}"]


def artists_of(axis: Axes) -> dict[Piece, str]:
    """Lines, points, bars and areas of a panel by their names, which may be empty. Bars that belong
    together are one part, and so are a line and its error bars.
    """
    kinds = (BarContainer, ErrorbarContainer)
    together = [each for each in axis.containers if isinstance(each, kinds)]
    hidden = {id(part) for each in together for part in each.get_children()}
    single = [*axis.lines, *axis.collections, *axis.patches]
    parts: list[Piece] = [each for each in single if id(each) not in hidden]
    return {part: name_of(part) for part in [*parts, *together]}


def unnamed(axis: Axes, parts: Sequence[Piece]) -> list[str]:
    """What has no name; many lines are only counted."""
    lines = [data_of(axis, part) for part in parts if isinstance(part, Line2D)]
    if len(lines) > LINES and any(map(len, lines)):
        height = span(np.concatenate(lines)[:, 1])
        return [f"{len(lines)} lines or marks, {height} in height ({UNSAID})"]
    return [about(axis, part) for part in parts]


def name_of(part: Piece) -> str:
    """What a part is called; matplotlib's own names begin with an underscore."""
    name = str(part.get_label() or "")
    return "" if name.startswith("_") else name


# ---- what is drawn


def about(axis: Axes, part: Piece | None) -> str:
    """From where to where one of a panel's parts goes; nothing of what is no such part."""
    if isinstance(part, ErrorbarContainer):
        part = part.lines[0]
    if isinstance(part, Line2D):
        return of_line(axis, part)
    if isinstance(part, BarContainer):
        return of_bars(axis, part)
    if isinstance(part, FillBetweenPolyCollection):
        return of_area(part)
    if isinstance(part, PathCollection):
        return of_points(np.asarray(part.get_offsets(), dtype=float))
    if isinstance(part, PolyCollection) and (counts := part.get_array()) is not None:
        return of_cells(np.asarray(part.get_offsets()), np.asarray(counts))
    if isinstance(part, Polygon):
        return of_steps(part)
    return ""


def data_of(axis: Axes, line: Line2D) -> np.ndarray:
    """A line's finite points (n, 2); none of a line that is not drawn at data, or in space."""
    if line.get_transform() != axis.transData or hasattr(axis, "get_zlim"):
        return np.empty((0, 2))
    points = np.asarray(line.get_xydata(), dtype=float)
    return points[np.isfinite(points).all(1)]


def of_line(axis: Axes, line: Line2D) -> str:
    """Its ends, and where between them it is highest or lowest; a line across the panel's place."""
    if line.get_transform() == axis.get_xaxis_transform():
        return f"a vertical line at {brief(float(np.ravel(line.get_xdata())[0]))}"
    if line.get_transform() == axis.get_yaxis_transform():
        return f"a level line at {brief(float(np.ravel(line.get_ydata())[0]))}"
    points = data_of(axis, line)
    if len(points) > 1 and line.get_linestyle() in ("None", "", " "):
        return of_points(points)
    if len(points) < 2:
        return listed(f"at ({brief(x)}, {brief(y)})" for x, y in points)
    (left, first), (right, last) = points[0], points[-1]
    said = f"from {brief(first)} at {spot(axis, left)} to {brief(last)} at {spot(axis, right)}"
    turns = [
        f"{word} {brief(points[at, 1])} at {spot(axis, points[at, 0])}"
        for word, at in (("lowest", points[:, 1].argmin()), ("highest", points[:, 1].argmax()))
        if stands_out(points[:, 1], at)
    ]
    return listed([said, *turns])


def spot(axis: Axes, x: float) -> str:
    """A place on the level axis, by the word that is written there."""
    words = {
        float(at): tick.get_text().strip()
        for at, tick in zip(axis.get_xticks(), axis.get_xticklabels(), strict=False)
    }
    near = min(words, key=lambda at: abs(at - x), default=None)
    if near is None or abs(near - x) >= 0.5 or not re.match(r"[^\W\d]", words[near]):
        return brief(x)
    return words[near]


def stands_out(heights: np.ndarray, at: np.integer) -> bool:
    """Whether a lowest or highest place is away from both ends by a tenth of the whole range."""
    beyond = np.abs(heights[at] - heights[[0, -1]]).min()
    return bool(beyond > 0.1 * np.ptp(heights))


def of_points(points: np.ndarray) -> str:
    """How many, their ranges, and whether they rise or fall together."""
    points = points[np.isfinite(points).all(1)]
    if len(points) < 2:
        return listed(f"at ({brief(x)}, {brief(y)})" for x, y in points)
    said = f"{len(points)} points, x {span(points[:, 0])}, y {span(points[:, 1])}"
    if len(points) < MARKS or not np.ptp(points, axis=0).all():
        return said
    return f"{said}, correlation {round(float(np.corrcoef(points.T)[0, 1]), 2) + 0.0:.2f}"


def of_cells(centres: np.ndarray, counts: np.ndarray) -> str:
    """A cloud of points that are counted in cells (n, 2): as `of_points`, and where most are."""
    points = np.repeat(centres, np.nan_to_num(counts).astype(int), axis=0)
    most = ", ".join(brief(float(one)) for one in centres[np.nan_to_num(counts).argmax()])
    return f"{of_points(points)}, most of them about ({most})"


def of_bars(axis: Axes, bars: BarContainer) -> str:
    """How long each of a few bars is, by the names at their feet; of many the range."""
    level = bars.orientation == "horizontal"
    lengths = [bar.get_width() if level else bar.get_height() for bar in bars]
    ticks = axis.get_yticklabels() if level else axis.get_xticklabels()
    places = [tick.get_text() for tick in ticks]
    names = places if len(places) == len(bars) else [""] * len(bars)
    if len(bars) <= BARS:
        few = zip(names, map(brief, lengths), strict=True)
        return f"({listed(f'{name}: {long}' if name else long for name, long in few)})"
    top = bars[int(np.argmax(lengths))]
    where = names[int(np.argmax(lengths))] or brief(
        top.get_y() + top.get_height() / 2 if level else top.get_x() + top.get_width() / 2
    )
    return f"({len(bars)} bars {span(lengths)}, longest at {where})"


def of_area(area: Collection) -> str:
    """From where to where a filled area goes in height."""
    corners = np.concatenate([path.vertices for path in area.get_paths()])
    return f"filled {span(corners[:, 1])} in height"


def of_steps(steps: Polygon) -> str:
    """The outline of a histogram: its range, and where it is highest."""
    corners = np.asarray(steps.get_xy(), dtype=float)
    top = corners[corners[:, 1].argmax()]
    filled = corners[corners[:, 1] > corners[:, 1].min(), 0]
    if not len(filled):
        return ""
    return f"a histogram {span(filled)}, highest {brief(top[1])} at {brief(top[0])}"
