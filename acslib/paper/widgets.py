"""Pictures under sliders, for notebooks: first as they stand still, then with a slider.

A slider needs a kernel. Whoever reads a page without one has the pictures above it, which `still`
names. Needs ipywidgets, which the extra `lab` has.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from acslib.paper.notebook import show

THUMBNAIL = 64  # pixels


def scrub(
    draw: Callable[..., Figure], still: Sequence[Mapping[str, Any]], **choices: Sequence[Any]
) -> ipywidgets.Widget:
    """`draw(**values)` for each of `still`, then under a slider for each of `choices`, by name.

    It begins at the last of `still`. Gives the box of sliders that it has displayed.
    """
    for values in still:
        show(draw(**values))
    handles = {
        name: slider(name, values, still[-1].get(name, values[0]))
        for name, values in choices.items()
    }
    box = ipywidgets.interactive(lambda **values: show(draw(**values)), **handles)
    display(box)
    return box


def slider(name: str, values: Sequence[Any], at: Any) -> ipywidgets.SelectionSlider:
    """A slider over values; numbers are written short."""
    return ipywidgets.SelectionSlider(
        options=[(f"{one:g}" if isinstance(one, float) else str(one), one) for one in values],
        value=at,
        description=name.replace("_", " "),
        continuous_update=False,
    )


def gallery(
    images: Tensor,
    names: Sequence[str],
    draw: Callable[..., Figure],
    still: Sequence[Mapping[str, Any]],
    **choices: Sequence[Any],
) -> ipywidgets.Widget:
    """Images (n, C, H, W) in [0, 1] with a button each: `draw(image=its number, **values)` of the
    one that was pressed last, under a slider for each of `choices`. `still` as for `scrub`.
    """
    for values in still:
        show(draw(**values))
    begin = still[-1]
    which = ipywidgets.Dropdown(
        options=[(name, number) for number, name in enumerate(names)],
        value=begin["image"],
        description="image",
    )
    handles = {name: slider(name, values, begin[name]) for name, values in choices.items()}
    box = ipywidgets.interactive(lambda **values: show(draw(**values)), image=which, **handles)
    row = ipywidgets.HBox(
        [
            _pressable(image, name, which, k)
            for k, (image, name) in enumerate(zip(images, names, strict=True))
        ],
        layout=ipywidgets.Layout(flex_flow="row wrap"),
    )
    both = ipywidgets.VBox([row, box])
    display(both)
    return both


def _pressable(
    image: Tensor, name: str, which: ipywidgets.Dropdown, number: int
) -> ipywidgets.Widget:
    """A small image above a button that chooses it."""
    button = ipywidgets.Button(
        description=name, tooltip=f"attack this {name}", layout=ipywidgets.Layout(width="auto")
    )
    button.on_click(lambda _: setattr(which, "value", number))
    picture = ipywidgets.Image(value=png(image), width=THUMBNAIL, height=THUMBNAIL)
    return ipywidgets.VBox([picture, button], layout=ipywidgets.Layout(align_items="center"))


def png(image: Tensor) -> bytes:
    """An image (C, H, W) in [0, 1] as a PNG; its pixels stay sharp."""
    pixels = (255 * image.float().cpu()).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    content = io.BytesIO()
    picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()
