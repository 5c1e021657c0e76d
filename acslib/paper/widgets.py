"""Pictures under sliders, for notebooks: first as they stand still, then with a slider.

A slider needs a kernel. Whoever reads a page without one has the pictures above it, which `still`
names. Needs ipywidgets, which the extra `lab` has.
"""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from acslib.paper.notebook import show
from acslib.paper.printing import html_image

THUMBNAIL = 64  # pixels
WITHOUT_KERNEL = "(Sliders stand here where a kernel runs.)"


def scrub(
    draw: Callable[..., Figure],
    still: Sequence[Mapping[str, Any]],
    begin: Mapping[str, Any],
    **choices: Sequence[Any],
) -> ipywidgets.Widget:
    """`draw(**values)` for each of `still`, then from `begin` on under a slider for each of
    `choices`, by name. Gives the box of sliders that it has displayed.
    """
    box = _sliders(draw, still, begin, {}, choices)
    _display(box)
    return box


def gallery(
    images: Tensor,
    names: Sequence[str],
    draw: Callable[..., Figure],
    still: Sequence[Mapping[str, Any]],
    begin: Mapping[str, Any],
    **choices: Sequence[Any],
) -> ipywidgets.Widget:
    """Images (n, C, H, W) in [0, 1] with a button each: `draw(image=its number, **values)` of the
    one that was pressed last, under sliders as `scrub` has them.
    """
    numbered = [(name, number) for number, name in enumerate(names)]
    which = ipywidgets.Dropdown(options=numbered, value=begin["image"], description="image")
    box = _sliders(draw, still, begin, {"image": which}, choices)
    row = ipywidgets.HBox(
        [_pressable(images[number], name, which, number) for name, number in numbered],
        layout=ipywidgets.Layout(flex_flow="row wrap"),
    )
    both = ipywidgets.VBox([row, box])
    _display(both)
    return both


def _sliders(
    draw: Callable[..., Figure],
    still: Sequence[Mapping[str, Any]],
    begin: Mapping[str, Any],
    handles: Mapping[str, ipywidgets.Widget],
    choices: Mapping[str, Sequence[Any]],
) -> ipywidgets.Widget:
    for values in still:
        show(draw(**values))
    sliders = {name: slider(name, values, begin[name]) for name, values in choices.items()}
    return ipywidgets.interactive(lambda **values: show(draw(**values)), **handles, **sliders)


def _display(box: ipywidgets.Widget) -> None:
    """Show a widget; a page without a kernel has a line in its place."""
    bundle = box._repr_mimebundle_() | {"text/plain": WITHOUT_KERNEL}
    display(bundle, raw=True)


def slider(name: str, values: Sequence[Any], at: Any) -> ipywidgets.SelectionSlider:
    """A slider over values; numbers are written short."""
    return ipywidgets.SelectionSlider(
        options=[(f"{one:g}" if isinstance(one, float) else str(one), one) for one in values],
        value=at,
        description=name.replace("_", " "),
        continuous_update=False,
    )


def _pressable(
    image: Tensor, name: str, which: ipywidgets.Dropdown, number: int
) -> ipywidgets.Widget:
    """A small image above a button that chooses it."""
    button = ipywidgets.Button(
        description=name, tooltip=f"attack this {name}", layout=ipywidgets.Layout(width="auto")
    )
    button.on_click(lambda _: setattr(which, "value", number))
    # as HTML: ipywidgets' Image has no alternative text
    picture = ipywidgets.HTML(html_image(f"image {name}", b64encode(png(image)).decode()))
    return ipywidgets.VBox([picture, button], layout=ipywidgets.Layout(align_items="center"))


def png(image: Tensor) -> bytes:
    """An image (C, H, W) in [0, 1] as a PNG; its pixels stay sharp."""
    pixels = (255 * image.float().cpu()).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    content = io.BytesIO()
    picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()
