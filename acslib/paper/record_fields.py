"""What `record.json` holds, as a model: every field with its meaning and unit."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """Of a record; more than what is named here is kept as it is."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Metrics(Part):
    """Accuracies as fractions, and how many images they are of."""

    acc: Annotated[float, Field(ge=0, le=1, description="Clean accuracy on the test images.")]
    n: Annotated[int, Field(ge=1, description="Test images.")]


class Seconds(Part):
    """What the run took; `total` is training without what is logged and evaluated."""

    select: Annotated[float, Field(ge=0, description="Selecting coresets.")]
    attack: Annotated[float, Field(ge=0, description="Making adversarial images.")]
    update: Annotated[float, Field(ge=0, description="Updating weights.")]
    total: Annotated[float, Field(ge=0, description="Their sum.")]


class Row(Part):
    """An epoch of the history."""

    epoch: Annotated[int, Field(ge=0, description="From 0.")]
    phase: Annotated[
        Literal["full", "skip", "coreset"],
        Field(description="Trained on all images, not trained, or trained on the coreset."),
    ]
    selection: Annotated[dict[str, Any] | None, Field(description="Size and errors of a coreset.")]
    seconds_select: Annotated[float, Field(description="Selecting a coreset.")]
    seconds_attack: Annotated[float, Field(description="Making adversarial images.")]
    seconds_update: Annotated[float, Field(description="Updating weights.")]


class WarmStart(Part):
    """First epochs that several runs have in common. The history has them as if the run had trained
    them itself, seconds included.
    """

    shared: Annotated[Literal[True], Field(description="Always so: else there is no such part.")]
    epochs: Annotated[int, Field(ge=1, description="How many.")]
    made_by: Annotated[str, Field(alias="from", description="The run that trained them.")]


class Calibration(Part):
    """What a full epoch takes, which was trained to be timed and thrown away."""

    full_epoch: Annotated[float, Field(ge=0, description="Seconds, as in the history.")]


class Record(BaseModel):
    """record.json. Everything that tables and figures look at must be there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Annotated[Literal[1], Field(description="Of this file; 1 is the only one so far.")]
    run: Annotated[str, Field(description="The run's name.")]
    profile: Annotated[str | None, Field(description="The profile's name.")] = None
    seed: Annotated[int, Field(ge=0, description="What the run's random draws begin with.")]
    fingerprint: Annotated[str, Field(description="Digest of all parameters.")]
    params: Annotated[dict[str, Any], Field(description="The parameters themselves.")]
    method: Annotated[str | None, Field(description="The method's name.")] = None
    setting: Annotated[str | None, Field(description="The setting's name.")] = None
    data: Annotated[str, Field(description="Which images, in words.")]
    threads: Annotated[int, Field(ge=1, description="1 in version 0.1.0.")] = 1
    processes: Annotated[int, Field(ge=1, description="1 in version 0.1.0.")] = 1
    plan: Annotated[dict[str, Any] | None, Field(description="Cost of the schedule.")] = None
    metrics: Annotated[Metrics, Field(description="Accuracies as fractions.")]
    masks: Annotated[
        dict[str, str], Field(description="Of each accuracy, which images are right; see `masks`.")
    ] = {}
    seconds: Annotated[Seconds, Field(description="What the run took, in seconds.")]
    history: Annotated[tuple[Row, ...], Field(min_length=1, description="One row an epoch.")]
    warm_start: Annotated[
        WarmStart | None, Field(description="First epochs that another run has trained.")
    ] = None
    calibration: Annotated[
        Calibration | None, Field(description="For runs that have no full epoch of their own.")
    ] = None
    provenance: Annotated[dict[str, Any], Field(description="Versions, hardware, commit.")]
    sha256: Annotated[str | None, Field(description="Of the rest; none in version 0.1.0.")] = None
